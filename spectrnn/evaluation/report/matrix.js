// The confusion matrix. Of many classes it shows some, which a search chooses, or all.

const MAX_SHOWN = 40;  // classes, unless all are asked for
const COUNTS = {
  cell: countCell, order: "the most errors", caption: "Rows are true classes, columns predicted ones; color shows the fraction of the row.",
};
const OF_SETS = " A class that is missed counts with each class that is detected in its place, or with none of them in the column (nothing); a class that is detected besides all true ones counts in the row (nothing).";

// Positions of the classes in report.matrix, in order of the errors in row and column.
function byErrors(counts) {
  const errors = counts.map((row, at) => row.reduce((sum, count, other) => (other === at ? sum : sum + Math.abs(count) + Math.abs(counts[other][at])), 0));
  return counts.map((_, at) => at).sort((a, b) => errors[b] - errors[a] || a - b);
}

function drawMatrix(open, { cell, order, caption } = COUNTS) {
  const [classes, counts, sizes] = report.matrix;
  const table = element("table", { class: "matrix", role: "grid", "aria-label": "Confusion matrix" });
  const worst = byErrors(counts);
  const state = { search: "", order: "name", all: false, near: null };
  const labelAt = (at) => report.labels[classes[at]];
  const together = (a, b) => Math.abs(counts[a][b]) + Math.abs(counts[b][a]);

  function shownClasses() {
    const text = state.search.trim().toLowerCase();
    let shown = worst;
    if (text) {  // the classes that match, and those that they are confused with
      const found = worst.filter((at) => labelAt(at).toLowerCase().includes(text));
      shown = [...new Set([...found, ...worst.filter((at) => found.some((other) => together(at, other)))])];
    }
    if (state.near !== null) {
      shown = [state.near, ...shown.filter((at) => at !== state.near).sort((a, b) => together(b, state.near) - together(a, state.near))];
    }
    if (!state.all) shown = shown.slice(0, MAX_SHOWN);
    return state.order === "name" && state.near === null ? [...shown].sort((a, b) => a - b) : shown;
  }

  function draw() {
    const shown = shownClasses();
    const rotated = shown.length > 6 || shown.some((at) => labelAt(at).length > 8);
    const size = shown.length > 24 ? 20 : shown.length > 14 ? 30 : 42;
    table.style.setProperty("--size", `${size}px`);
    const about = (at) => (sizes?.[at] === 0 ? "not tested" : "sort by confusions with it");
    const name = (at) => element("div", { class: "label", title: `${labelAt(at)}: ${about(at)}` }, labelAt(at));
    const head = element("tr", {}, element("td", { class: "none corner" }));
    for (const at of shown) head.append(element("th", { scope: "col", class: rotated ? "up" : "", "data-at": at }, name(at)));
    const body = element("tbody");
    for (const actual of shown) {
      const row = element("tr", {}, element("th", { scope: "row", tabindex: "-1", "data-at": actual }, name(actual)));
      const total = sizes?.[actual] ?? 1;
      for (const predicted of shown) row.append(cell(classes[actual], classes[predicted], counts[actual][predicted], total, size));
      body.append(row);
    }
    table.replaceChildren(element("thead", {}, head), body);
    const first = body.querySelector("td");
    if (first) first.tabIndex = 0;
    byId("matrix").closest(".pair").classList.toggle("broad", shown.length > 24);
    byId("matrix").classList.toggle("tall", shown.length > 24);
    const isChosen = state.search.trim() || state.near !== null;
    const of = `${formatCount(shown.length)} of ${formatCount(report.labels.length)} classes`;
    const part = shown.length === report.labels.length ? "" : isChosen ? ` Shown: ${of}.` : ` Shown: the ${of} with ${order}.`;
    byId("matrix-caption").textContent = `${caption}${report.has_sets ? OF_SETS : ""} Select a cell to see its clips${classes.length > 2 ? ", the name of a class to sort by its confusions" : ""}.${part}`;
  }

  const sortNear = (at) => {
    state.near = state.near === at ? null : at;
    draw();
    byId("matrix").scrollTo(0, 0);
    table.querySelector(`th[scope=row][data-at='${at}']`)?.focus({ preventScroll: true });
  };
  const cellOf = (event) => event.target.closest("tbody td, tbody th");
  table.addEventListener("click", (event) => {
    const target = event.target.closest("th[data-at]");
    if (target) sortNear(Number(target.dataset.at));
    else if (cellOf(event)) open(cellOf(event));
  });
  table.addEventListener("keydown", (event) => {
    const target = cellOf(event);
    if (target) moveInMatrix(event, target, (chosen) => (chosen.tagName === "TH" ? sortNear(Number(chosen.dataset.at)) : open(chosen)));
  });
  if (classes.length >= MIN_SEARCHED) byId("matrix").before(matrixTools(classes.length, state, draw));
  byId("matrix").append(table);
  draw();
}

function matrixTools(count, state, draw) {
  const set = (key, value) => { Object.assign(state, { near: null, [key]: value }); draw(); };
  const tools = element("div", { class: "tools" }, searchField("Search the confusion matrix", (text) => set("search", text)));
  const order = element("select", { "aria-label": "Order of the confusion matrix" }, new Option("by name", "name"), new Option("by errors", "errors"));
  order.addEventListener("change", () => set("order", order.value));
  tools.append(order);
  if (count > MAX_SHOWN) {
    const all = element("input", { type: "checkbox" });
    all.addEventListener("change", () => set("all", all.checked));
    tools.append(element("label", { class: "check" }, all, `${count === report.labels.length ? "all " : ""}${formatCount(count)} classes`));
  }
  return tools;
}

function matrixCell(actual, predicted, { text, strength, isGood, deep, bright, size, description }) {
  const place = { tabindex: "-1", "data-true": actual, "data-predicted": predicted };
  if (!text) return element("td", { ...place, class: "none" });  // most of ten thousands of cells
  const cell = element("td", { ...place, class: `${isGood ? "hit" : ""} ${deep ? "deep" : ""} ${bright ? "bright" : ""}` });
  cell.style.setProperty("--strength", strength);
  cell.style.fontSize = `${Math.min(13, (1.7 * size) / Math.max(3, text.length + 1))}px`;
  cell.textContent = text;
  cell.title = `${report.labels[actual]} classified as ${report.labels[predicted]}: ${description}`;
  cell.setAttribute("aria-label", cell.title);
  cell.setAttribute("aria-selected", "false");
  return cell;
}

function countCell(actual, predicted, count, total, size) {
  const fraction = count / Math.max(1, total);
  const isGood = actual === predicted;
  const strength = isGood ? 0.9 * fraction : count && 0.16 + 0.84 * Math.sqrt(fraction);  // single errors stay visible
  // The two colors need inverted text from different strengths on, in light and in dark mode.
  const deep = strength > (isGood ? 0.79 : 0.86), bright = strength > (isGood ? 0.59 : 0.62);
  const description = `${clips(count)}, ${percent(fraction)} of the row`;
  return matrixCell(actual, predicted, { text: count ? String(count) : "", strength, isGood, deep, bright, size, description });
}

function moveInMatrix(event, cell, open) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (event.key === "Enter" || event.key === " ") open(cell);
  else if (step) {
    const next = cell.closest("tbody").rows[cell.parentNode.sectionRowIndex + step[0]]?.cells[cell.cellIndex + step[1]];
    if (next) {
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

function selectCell(actual, predicted) {
  for (const cell of document.querySelectorAll(".matrix td[data-true]")) {
    cell.setAttribute("aria-selected", String(Boolean(actual && predicted)
      && report.labels[cell.dataset.true] === actual && report.labels[cell.dataset.predicted] === predicted));
  }
}
