// The figures: confusion matrix, reliability diagram, and the tables of classes, lengths, levels and groups.

function drawMatrix(open) {
  const [classes, counts] = report.matrix;
  const upright = classes.length > 6 || classes.some((label) => report.labels[label].length > 8);
  const size = classes.length > 24 ? 20 : classes.length > 14 ? 30 : 42;
  const table = element("table", { class: "matrix", role: "grid", "aria-label": "Confusion matrix" });
  table.style.setProperty("--size", `${size}px`);
  const name = (label) => element("div", { class: "label", title: report.labels[label] }, report.labels[label]);
  const head = element("tr", {}, element("td", { class: "none" }));
  head.firstChild.style.background = "none";
  for (const label of classes) head.append(element("th", { scope: "col", class: upright ? "up" : "" }, name(label)));
  const body = element("tbody");
  classes.forEach((actual, row) => {
    const line = element("tr", {}, element("th", { scope: "row" }, name(actual)));
    const total = Math.max(1, counts[row].reduce((sum, count) => sum + count, 0));
    classes.forEach((predicted, column) => line.append(matrixCell(actual, predicted, counts[row][column], total, size)));
    body.append(line);
  });
  table.append(element("thead", {}, head), body);
  body.querySelector("td").tabIndex = 0;
  const chosen = (event) => event.target.closest("tbody td");
  table.addEventListener("click", (event) => chosen(event) && open(chosen(event)));
  table.addEventListener("keydown", (event) => chosen(event) && moveInMatrix(event, chosen(event), open));
  byId("matrix").append(table);
  byId("matrix").closest(".pair").classList.toggle("broad", classes.length > 24);
  const part = classes.length < report.labels.length ? ` The ${classes.length} of ${report.labels.length} classes with the most errors.` : "";
  byId("matrix-caption").textContent = "Rows are what a clip is, columns what it was taken for; the stronger the colour, the larger "
    + `the share of its row. A cell opens its clips.${part}`;
}

function matrixCell(actual, predicted, count, total, size) {
  const share = count / total;
  const cell = element("td", { tabindex: "-1", "data-true": actual, "data-predicted": predicted, "aria-selected": "false" });
  const tone = actual === predicted ? 0.9 * share : count && 0.16 + 0.84 * Math.sqrt(share);  // a single error must be seen
  const hit = actual === predicted; // the two colours are dark, and in the dark bright, from different shares on
  const deep = tone > (hit ? 0.79 : 0.86), bright = tone > (hit ? 0.59 : 0.62);
  cell.className = `${hit ? "hit" : ""} ${deep ? "deep" : ""} ${bright ? "bright" : ""} ${count ? "" : "none"}`;
  cell.style.setProperty("--share", tone);
  cell.style.fontSize = `${Math.min(13, (1.7 * size) / Math.max(3, String(count).length + 1))}px`;
  cell.textContent = count ? count : "";
  const said = `${report.labels[actual]} taken for ${report.labels[predicted]}: ${clips(count)}, ${percent(share)} of the row`;
  cell.title = said;
  cell.setAttribute("aria-label", said);
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
  const x = (share) => left + share * width;
  const y = (share) => top + (1 - share) * width;
  const bottom = top + width + strip + 14;
  const picture = drawn("svg", { viewBox: `0 0 ${left + width + 12} ${bottom + 34}`, role: "img",
    "aria-label": `Reliability diagram: ${report.reliability.map(([from, to, mean, count, share]) =>
      `confidence ${percent(mean, 0)}, right ${percent(share, 0)} of ${clips(count)}`).join("; ")}` });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    picture.append(drawn("path", { class: "axis", d: `M${x(0)} ${y(share)}H${x(1)}` }),
      drawn("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, String(100 * share)),
      drawn("text", { x: x(share), y: bottom + 14, "text-anchor": "middle" }, String(100 * share)));
  }
  picture.append(drawn("path", { class: "ideal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }),
    drawn("path", { class: "axis", d: `M${x(0)} ${bottom}H${x(1)}` }),
    drawn("text", { x: x(0.5), y: bottom + 29, "text-anchor": "middle" }, "confidence, %"),
    drawn("text", { x: x(0) + 6, y: y(1) + 14 }, "right, %"));
  const most = Math.max(...report.reliability.map((row) => row[3]));
  for (const [from, to, mean, count, share, low, high] of report.reliability) {
    const height = Math.max(1.5, (strip * count) / most);
    picture.append(
      drawn("rect", { class: "amount", x: x(from) + 1, width: x(to) - x(from) - 2, y: bottom - height, height }, drawn("title", {}, clips(count))),
      drawn("path", { class: "reach", d: `M${x(mean)} ${y(low)}V${y(high)}` }),
      drawn("circle", { class: "mark", cx: x(mean), cy: y(share), r: 4 },
        drawn("title", {}, `says ${percent(mean)}, right ${percent(share)} of ${clips(count)}`)));
  }
  byId("reliability").append(picture);
}

function drawClasses(open) {
  const columns = ["class", "precision", "recall", "F1", "clips"];
  const rows = report.classes.map(([label, ...figures]) => [report.labels[label], ...figures]);
  const body = element("tbody");
  const heads = columns.map((name, column) => element("th", { scope: "col", class: column ? "number" : "" },
    element("button", { type: "button" }, name)));
  const sortBy = (column) => {
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((a, b) => (a[column] < b[column] ? -1 : a[column] > b[column] ? 1 : 0) * (down ? -1 : 1));
    body.replaceChildren(...rows.map(([label, ...figures]) => {
      const name = element("button", { type: "button", title: "its clips" }, label);
      name.addEventListener("click", () => open(label));
      return element("tr", {}, element("th", { scope: "row" }, name),
        ...figures.map((figure, index) => element("td", { class: "number" }, index === 3 ? counted(figure) : percent(figure))));
    }));
  };
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => sortBy(column)));
  sortBy(3);
  byId("classes").append(element("table", { class: "list" }, element("thead", {}, element("tr", {}, ...heads)), body));
  const part = rows.length < report.class_count ? `The ${rows.length} of ${report.class_count} classes with the lowest F1. ` : "";
  byId("classes-caption").textContent = `${part}Precision is the share of right ones among clips taken for the class, recall among clips of it. `
    + "A name opens its clips.";
}

function drawStrata() {
  const named = (digits) => ([low, high, ...rest]) => [span(fixed(low, digits), fixed(high, digits)), ...rest];
  drawAccuracy("strata", "Accuracy by length", "length, s", report.lengths.map(named(2)), "");
  drawAccuracy("strata", "Accuracy by level", "RMS, dBFS", report.levels.map(named(1)), "");
  const left = report.group_count - report.groups.length;
  drawAccuracy("groups", "Accuracy by group", "group", report.groups,
    left > 0 && report.groups.length ? `The worst ${report.groups.length} of ${report.group_count}.` : "");
}

function drawAccuracy(place, title, unit, rows, caption) {
  if (!rows.length) return;
  const least = Math.min(...rows.map((row) => row[3]));
  const floor = Math.max(0, Math.floor(10 * least) / 10);  // the scale ends at 100 %, and begins where it must
  const x = (share) => (100 * (share - floor)) / (1 - floor || 1);
  const body = element("tbody");
  for (const [name, count, share, low, high] of rows) {
    const picture = drawn("svg", { "aria-hidden": "true" },
      drawn("line", { class: "axis", x1: "0%", x2: "100%", y1: "50%", y2: "50%" }),
      drawn("line", { class: "reach", x1: `${x(low)}%`, x2: `${x(high)}%`, y1: "50%", y2: "50%" }),
      drawn("circle", { class: "mark", cx: `${x(share)}%`, cy: "50%", r: 3.5 }));
    const cell = element("td", { class: "interval", title: `95 % interval: ${percent(low)} to ${percent(high)}` }, picture);
    body.append(element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "number" }, counted(count)),
      element("td", { class: "number" }, percent(share)), cell));
  }
  const scale = element("div", { class: "scale" }, element("span", {}, percent(floor, 0)), element("span", {}, "100 %"));
  const head = [[unit, ""], ["clips", "number"], ["right", "number"]].map(([text, kind]) => element("th", { scope: "col", class: kind }, text));
  byId(place).append(element("h2", {}, title), element("p", { class: "caption" }, caption), element("table", { class: "list" },
    element("thead", {}, element("tr", {}, ...head, element("th", { class: "interval" }, scale))), body));
}
