// The page of a comparison of runs. Run A and run B are the two that are tested on the same clips.

const PAGE_SIZE = 24;  // clips per "more"
const pair = report.pair;
const names = (classes) => [classes].flat().map((index) => report.labels[index]).join("; ") || "(nothing)";
const all = (pair?.clips ?? []).map(([path, group, actual, seconds, isA, ...answers], number) => ({
  number, path, group, seconds, actual: names(actual), correct: isA ? "a" : "b",
  answers: answers.map(([label, probability]) => ({ label: names(label), probability })),
  searchText: `${path} ${group ?? ""}`.toLowerCase(),
}));
const FIELDS = ["show", "true", "predicted", "search"];
let shown = [];

const signed = (number, digits) => `${number > 0 ? "+" : ""}${fixed(number, digits)}`;

function renderHeader() {
  byId("subject").textContent = report.subject;
  byId("claim").textContent = report.claim;
  byId("lead").textContent = report.lead;
  for (const note of report.notes) byId("notes").append(element("li", {}, note));
  for (const { title, a, b, difference, interval } of pair?.metrics ?? []) {
    const [low, high] = interval.map((end) => signed(100 * end, 1));
    byId("headline").append(element("div", { title: `95 % confidence interval of the difference: ${low} to ${high} points` },
      element("dt", {}, `${title}, ${pair.b} − ${pair.a}`), element("dd", {}, `${signed(100 * difference, 1)} points`,
        element("small", {}, `${low} to ${high}`), element("small", {}, `${percent(b)} − ${percent(a)}`))));
  }
  byId("headline").hidden = !pair;
  byId("imprint").textContent = report.imprint;
}

function table(head, rows, isNumber = (column) => column > 0) {
  const kind = (column) => (isNumber(column) ? { class: "number" } : {});
  return element("table", { class: "list" },
    element("thead", {}, element("tr", {}, ...head.map((name, column) => element("th", { scope: "col", ...kind(column) }, name)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, column) =>
      element(column ? "td" : "th", column ? kind(column) : { scope: "row" }, cell))))));
}

function drawTables() {
  byId("runs").append(table(...report.runs));
  for (const { title, caption, head, rows } of report.tables) {
    byId("tables").append(element("h2", {}, title), element("p", { class: "caption" }, caption),
      element("div", { class: "scroll tall" }, table(head, rows)));
  }
}

function drawCurves() {
  byId("curves").hidden = !report.curves.length;
  report.curve_names.forEach((name, run) => byId("legend").append(element("li", {},
    svgElement("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, svgElement("path", { class: `curve head-${run + 1}`, d: "M1 4H23" })), name)));
  const dashed = svgElement("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, svgElement("path", { class: "curve train ideal", d: "M1 4H23" }));
  if (report.curves.some(({ lines }) => lines.some((line) => line.train))) byId("legend").append(element("li", {}, dashed, "dashed: training"));
  report.curves.forEach(drawPlot);
}

function drawPlot({ title, lines }) {
  const [left, top, width, height] = [40, 10, 366, 210];
  const points = lines.flatMap((line) => line.points);
  const ticks = niceTicks(Math.min(...points.map((point) => point[1])), Math.max(...points.map((point) => point[1])));
  const [first, last] = [1, Math.max(2, ...points.map((point) => point[0]))];
  const x = (epoch) => left + (width * (epoch - first)) / (last - first);
  const y = (value) => top + height - (height * (value - ticks[0])) / (ticks.at(-1) - ticks[0]);
  const plot = svgElement("svg", { viewBox: `0 0 ${left + width + 14} ${top + height + 38}`, role: "img", "aria-label": title });
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(ticks[1] - ticks[0]) + 1e-9)));
  for (const tick of ticks) {
    plot.append(svgElement("path", { class: "axis", d: `M${x(first)} ${y(tick)}H${x(last)}` }),
      svgElement("text", { x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, fixed(tick, digits)));
  }
  const step = Math.ceil((last - first) / 8);
  for (let epoch = first; epoch <= last; epoch += step) {
    plot.append(svgElement("text", { x: x(epoch), y: top + height + 17, "text-anchor": "middle" }, String(epoch)));
  }
  plot.append(svgElement("text", { x: x((first + last) / 2), y: top + height + 33, "text-anchor": "middle" }, "epoch"));
  for (const { run, train, points: line } of lines) {
    const name = report.curve_names[run];
    const [epoch, value] = line.at(-1);
    plot.append(
      svgElement("polyline", { class: `curve head-${run + 1}${train ? " train" : ""}`, points: line.map(([at, height]) => `${x(at)},${y(height)}`).join(" ") },
        svgElement("title", {}, `${name}: ${train ? "training" : title} ${value} after epoch ${epoch}`)));
    if (line.length === 1) plot.append(svgElement("circle", { class: `curve head-${run + 1}`, cx: x(epoch), cy: y(value), r: 3 }));
  }
  byId("plots").append(element("figure", {}, element("figcaption", {}, title), plot));
}

// Round values that enclose a range, about five of them.
function niceTicks(low, high) {
  const raw = (high - low || Math.abs(high) || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const start = Math.floor(low / step + 1e-9);
  const end = Math.max(start + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: end - start + 1 }, (_, index) => (start + index) * step);
}

function differenceCell(actual, predicted, difference, _, size) {
  const largest = Math.max(1, ...report.matrix[1].flat().map(Math.abs));
  const isGood = (actual === predicted) === difference > 0;
  const strength = difference && 0.16 + 0.84 * Math.sqrt(Math.abs(difference) / largest);
  const deep = strength > 0.8, bright = strength > 0.6;
  const cell = element("td", { tabindex: "-1", "data-true": actual, "data-predicted": predicted, "aria-selected": "false",
    class: `${isGood ? "hit" : ""} ${deep ? "deep" : ""} ${bright ? "bright" : ""} ${difference ? "" : "none"}` });
  cell.style.setProperty("--strength", strength);
  cell.textContent = difference ? signed(difference, 0) : "";
  cell.style.fontSize = `${Math.min(13, (1.7 * size) / Math.max(3, cell.textContent.length + 1))}px`;
  cell.title = `${report.labels[actual]} classified as ${report.labels[predicted]}: ${signed(difference, 0)} of ${pair.b} relative to ${pair.a}`;
  cell.setAttribute("aria-label", cell.title);
  return cell;
}

function setUpFilters() {
  byId("show").append(new Option("either", ""), new Option(`only ${pair.b}`, "b"), new Option(`only ${pair.a}`, "a"));
  for (const [id, labels] of [["true", all.map((clip) => clip.actual)], ["predicted", all.flatMap((clip) => clip.answers.map(({ label }) => label))]]) {
    byId(id).append(new Option("any", ""), ...[...new Set(labels)].sort().map((label) => new Option(label, label)));
  }
  byId("filters").addEventListener("input", showClips);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => setFilters({}));
  byId("more").addEventListener("click", () => showMore(true));
}

function setFilters(wanted) {
  for (const field of FIELDS) byId(field).value = wanted[field] ?? "";
  showClips();
}

function showClips() {
  const [show, actual, predicted, search] = FIELDS.map((field) => byId(field).value);
  const text = search.trim().toLowerCase();
  shown = all.filter((clip) => (!show || clip.correct === show) && (!actual || clip.actual === actual)
    && (!predicted || clip.answers.some(({ label }) => label === predicted)) && clip.searchText.includes(text));
  for (const cell of document.querySelectorAll(".matrix td[data-true]")) {
    cell.setAttribute("aria-selected", String(Boolean(actual && predicted)
      && report.labels[cell.dataset.true] === actual && report.labels[cell.dataset.predicted] === predicted));
  }
  const part = shown.length ? `${formatCount(shown.length)} of ${clips(all.length)}` : `None of ${clips(all.length)} match.`;
  byId("count").textContent = all.length < pair.clip_count ? `${part}; ${clips(pair.clip_count - all.length)} are not listed` : part;
  byId("list").replaceChildren();
  showMore(false);
}

function showMore(focus) {
  const list = byId("list");
  const first = list.children.length;
  list.append(...shown.slice(first, first + PAGE_SIZE).map(card));
  const rest = shown.length - list.children.length;
  byId("more").hidden = rest <= 0;
  byId("more").textContent = `${formatCount(Math.min(PAGE_SIZE, rest))} more of ${formatCount(rest)}`;
  if (focus) list.children[first]?.focus();
}

function card(clip) {
  const item = element("li", { class: "clip", tabindex: "-1", "data-clip": clip.number });
  item.append(
    element("h3", {}, element("span", {}, clip.actual), element("small", {}, `only ${pair[clip.correct]}`)),
    element("p", { class: "about" }, [clip.path, clip.group, clip.seconds && `${clip.seconds.toFixed(2)}\u00a0s`].filter(Boolean).join(" · ")));
  const block = byId(`clip-${clip.number}`);
  const media = block && JSON.parse(block.textContent);
  const controls = element("div", { class: "controls" });
  if (media) {
    item.append(spectrogramView(clip, media));
    controls.append(player(item, clip, media.audio));
  } else item.append(element("p", { class: "absent" }, "Audio and spectrogram are omitted."));
  controls.append(element("ol", { class: "top answers", "aria-label": "Predicted classes" }, ...clip.answers.map(({ label, probability }, run) =>
    element("li", { class: label === clip.actual ? "true" : "" }, element("span", { title: label }, `${[pair.a, pair.b][run]}: ${label}`),
      element("meter", { value: probability, "aria-hidden": "true" }), element("span", {}, percent(probability))))));
  item.append(controls);
  return item;
}

function setUpShortcuts() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") { setFilters({}); document.activeElement.blur(); return; }
    if (event.target.matches("input, select")) return;
    const here = event.target.closest(".clip");
    const shortcuts = { j: () => moveInList(1), k: () => moveInList(-1), "/": () => byId("search").focus() };
    if (event.target === here && (event.key === " " || event.key === "Enter")) here.querySelector(".play")?.click();
    else if (shortcuts[event.key]) shortcuts[event.key]();
    else return;
    event.preventDefault();
  });
}

function openCell(cell) {
  setFilters({ true: report.labels[cell.dataset.true], predicted: report.labels[cell.dataset.predicted] });
  byId("clips").scrollIntoView();
  byId("list").firstElementChild?.focus({ preventScroll: true });
}

renderHeader();
drawTables();
drawCurves();
byId("details").hidden = byId("clips").hidden = !pair;
document.querySelector(".keys").hidden = !pair;
if (pair) {
  drawMatrix(openCell, {
    cell: differenceCell, order: "the largest differences",
    caption: `Clips of ${pair.b} minus those of ${pair.a}: rows are true classes, columns predicted ones. Blue cells are in favor of ${pair.b}, red ones of ${pair.a}.`,
  });
  byId("clips-caption").textContent = report.clips_caption;
  setUpFilters();
  setFilters({});
  setUpShortcuts();
}
