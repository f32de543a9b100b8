// Plots and tables: confusion matrix, reliability diagram, classes, and accuracy by length, level and group.

const COUNTS = {
  cell: matrixCell, order: "the most errors", caption: "Rows are true classes, columns predicted ones; color shows the fraction of the row.",
};

function drawMatrix(open, { cell: makeCell, order, caption } = COUNTS) {
  const [classes, counts, sizes] = report.matrix;
  const rotated = classes.length > 6 || classes.some((label) => report.labels[label].length > 8);
  const size = classes.length > 24 ? 20 : classes.length > 14 ? 30 : 42;
  const table = element("table", { class: "matrix", role: "grid", "aria-label": "Confusion matrix" });
  table.style.setProperty("--size", `${size}px`);
  const name = (label) => element("div", { class: "label", title: report.labels[label] }, report.labels[label]);
  const head = element("tr", {}, element("td", { class: "none" }));
  head.firstChild.style.background = "none";
  for (const label of classes) head.append(element("th", { scope: "col", class: rotated ? "up" : "" }, name(label)));
  const body = element("tbody");
  classes.forEach((actual, row) => {
    const tableRow = element("tr", {}, element("th", { scope: "row" }, name(actual)));
    const total = Math.max(1, sizes?.[row] ?? 1);
    classes.forEach((predicted, column) => tableRow.append(makeCell(actual, predicted, counts[row][column], total, size)));
    body.append(tableRow);
  });
  table.append(element("thead", {}, head), body);
  body.querySelector("td").tabIndex = 0;
  const cellOf = (event) => event.target.closest("tbody td");
  table.addEventListener("click", (event) => cellOf(event) && open(cellOf(event)));
  table.addEventListener("keydown", (event) => cellOf(event) && moveInMatrix(event, cellOf(event), open));
  byId("matrix").append(table);
  byId("matrix").closest(".pair").classList.toggle("broad", classes.length > 24);
  const part = classes.length < report.labels.length ? ` Shown: the ${classes.length} of ${formatCount(report.labels.length)} classes with ${order}.` : "";
  byId("matrix-caption").textContent = `${caption} Select a cell to see its clips.${part}`;
}

function matrixCell(actual, predicted, count, total, size) {
  const fraction = count / total;
  const cell = element("td", { tabindex: "-1", "data-true": actual, "data-predicted": predicted, "aria-selected": "false" });
  const hit = actual === predicted;
  const strength = hit ? 0.9 * fraction : count && 0.16 + 0.84 * Math.sqrt(fraction);  // single errors stay visible
  // The two colors need inverted text from different strengths on, in light and in dark mode.
  const deep = strength > (hit ? 0.79 : 0.86), bright = strength > (hit ? 0.59 : 0.62);
  cell.className = `${hit ? "hit" : ""} ${deep ? "deep" : ""} ${bright ? "bright" : ""} ${count ? "" : "none"}`;
  cell.style.setProperty("--strength", strength);
  cell.style.fontSize = `${Math.min(13, (1.7 * size) / Math.max(3, String(count).length + 1))}px`;
  cell.textContent = count ? count : "";
  const description = `${report.labels[actual]} classified as ${report.labels[predicted]}: ${clips(count)}, ${percent(fraction)} of the row`;
  cell.title = description;
  cell.setAttribute("aria-label", description);
  return cell;
}

function moveInMatrix(event, cell, open) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (event.key === "Enter" || event.key === " ") open(cell);
  else if (step) {
    const next = cell.closest("tbody").rows[cell.parentNode.sectionRowIndex + step[0]]?.cells[cell.cellIndex + step[1]];
    if (next?.tagName === "TD") {
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

function drawReliability() {
  const [left, top, width, strip] = [38, 8, 300, 52];
  const x = (fraction) => left + fraction * width;
  const y = (fraction) => top + (1 - fraction) * width;
  const bottom = top + width + strip + 14;
  const plot = svgElement("svg", { viewBox: `0 0 ${left + width + 12} ${bottom + 34}`, role: "img",
    "aria-label": `Reliability diagram: ${report.reliability.map(([from, to, mean, count, accuracy]) =>
      `confidence ${percent(mean, 0)}, accuracy ${percent(accuracy, 0)} (${clips(count)})`).join("; ")}` });
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    plot.append(svgElement("path", { class: "axis", d: `M${x(0)} ${y(tick)}H${x(1)}` }),
      svgElement("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(100 * tick)),
      svgElement("text", { x: x(tick), y: bottom + 14, "text-anchor": "middle" }, String(100 * tick)));
  }
  plot.append(svgElement("path", { class: "ideal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }),
    svgElement("path", { class: "axis", d: `M${x(0)} ${bottom}H${x(1)}` }),
    svgElement("text", { x: x(0.5), y: bottom + 29, "text-anchor": "middle" }, "confidence, %"),
    svgElement("text", { x: x(0) + 6, y: y(1) + 14 }, "accuracy, %"));
  const most = Math.max(...report.reliability.map((row) => row[3]));
  for (const [from, to, mean, count, accuracy, low, high] of report.reliability) {
    const height = Math.max(1.5, (strip * count) / most);
    plot.append(
      svgElement("rect", { class: "amount", x: x(from) + 1, width: x(to) - x(from) - 2, y: bottom - height, height }, svgElement("title", {}, clips(count))),
      svgElement("path", { class: "interval-line", d: `M${x(mean)} ${y(low)}V${y(high)}` }),
      svgElement("circle", { class: "mark", cx: x(mean), cy: y(accuracy), r: 4 },
        svgElement("title", {}, `confidence ${percent(mean)}, accuracy ${percent(accuracy)} (${clips(count)})`)));
  }
  byId("reliability").append(plot);
}

function drawClasses(open) {
  const columns = ["class", "precision", "recall", "F1", "clips"];
  const rows = report.classes.map(([label, ...values]) => [report.labels[label], ...values]);
  const body = element("tbody");
  const heads = columns.map((name, column) => element("th", { scope: "col", class: column ? "number" : "" },
    element("button", { type: "button" }, name)));
  const sortBy = (column) => {
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((a, b) => (a[column] < b[column] ? -1 : a[column] > b[column] ? 1 : 0) * (down ? -1 : 1));
    body.replaceChildren(...rows.map(([label, ...values]) => {
      const name = element("button", { type: "button", title: "Show its clips" }, label);
      name.addEventListener("click", () => open(label));
      return element("tr", {}, element("th", { scope: "row" }, name),
        ...values.map((value, index) => element("td", { class: "number" }, index === 3 ? formatCount(value) : percent(value))));
    }));
  };
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => sortBy(column)));
  sortBy(3);
  byId("classes").append(element("table", { class: "list" }, element("thead", {}, element("tr", {}, ...heads)), body));
  const part = rows.length < report.class_count ? `The ${formatCount(rows.length)} of ${formatCount(report.class_count)} classes with the lowest F1. ` : "";
  byId("classes-caption").textContent = `${part}Precision: correct fraction of the clips classified as the class. Recall: correct fraction of its clips. `
    + "Select a class to see its clips.";
}

function drawAccuracies() {
  const named = (digits) => ([low, high, ...rest]) => [range(fixed(low, digits), fixed(high, digits)), ...rest];
  drawAccuracy("strata", "Accuracy by length", "length, s", report.lengths.map(named(2)), "");
  drawAccuracy("strata", "Accuracy by level", "RMS, dBFS", report.levels.map(named(1)), "");
  const left = report.group_count - report.groups.length;
  drawAccuracy("groups", "Accuracy by group", "group", report.groups,
    left > 0 && report.groups.length ? `The ${report.groups.length} of ${report.group_count} groups with the lowest accuracy.` : "");
}

function drawAccuracy(parent, title, unit, rows, caption) {
  if (!rows.length) return;
  const lowest = Math.min(...rows.map((row) => row[3]));
  const floor = Math.max(0, Math.floor(10 * lowest) / 10);  // start of the scale, which ends at 100 %
  const x = (fraction) => (100 * (fraction - floor)) / (1 - floor || 1);
  const body = element("tbody");
  for (const [name, count, accuracy, low, high] of rows) {
    const plot = svgElement("svg", { "aria-hidden": "true" },
      svgElement("line", { class: "axis", x1: "0%", x2: "100%", y1: "50%", y2: "50%" }),
      svgElement("line", { class: "interval-line", x1: `${x(low)}%`, x2: `${x(high)}%`, y1: "50%", y2: "50%" }),
      svgElement("circle", { class: "mark", cx: `${x(accuracy)}%`, cy: "50%", r: 3.5 }));
    const cell = element("td", { class: "interval", title: `95 % confidence interval: ${percent(low)} to ${percent(high)}` }, plot);
    body.append(element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "number" }, formatCount(count)),
      element("td", { class: "number" }, percent(accuracy)), cell));
  }
  const scale = element("div", { class: "scale" }, element("span", {}, percent(floor, 0)), element("span", {}, "100 %"));
  const head = [[unit, ""], ["clips", "number"], ["accuracy", "number"]].map(([text, kind]) => element("th", { scope: "col", class: kind }, text));
  byId(parent).append(element("h2", {}, title), element("p", { class: "caption" }, caption), element("table", { class: "list" },
    element("thead", {}, element("tr", {}, ...head, element("th", { class: "interval" }, scale))), body));
}
