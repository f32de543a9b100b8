// The page of a comparison of runs. Run A and run B are the two that are tested on the same clips.

const pair = report.pair;
const labelsOf = (classes) => [classes].flat().map((index) => report.labels[index]);
const describe = (labels) => labels.join("; ") || NOTHING;
const all = (pair?.clips ?? []).map(([path, start, end, group, actual, seconds, isA, ...answers], number) => ({
  number, name: describeSource({ path, start, end }), group, seconds, actual: labelsOf(actual), correct: isA ? "a" : "b",
  answers: answers.map(([label, probability]) => ({ labels: labelsOf(label), probability })),
  searchText: `${path} ${group ?? ""}`.toLowerCase(),
}));
const FIELDS = ["show", "true", "predicted", "search"];

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

function table(head, rows, links = []) {
  const kind = (column) => (column ? { class: "number" } : {});
  return element("table", { class: "list" },
    element("thead", {}, element("tr", {}, ...head.map((name, column) => element("th", { scope: "col", ...kind(column) }, name)))),
    element("tbody", {}, ...rows.map((row, at) => element("tr", {}, ...row.map((cell, column) => {
      const isLink = links[at] && column === row.length - 1;
      return element(column ? "td" : "th", column ? kind(column) : { scope: "row" },
        isLink ? element("a", { href: links[at], title: "Report of the run" }, cell) : cell);
    })))));
}

function drawTables() {
  byId("runs").append(table(...report.runs, report.reports));
  for (const { title, caption, head, rows } of report.tables) {
    byId("tables").append(element("h2", {}, title), element("p", { class: "caption" }, caption),
      element("div", { class: "scroll tall" }, table(head, rows)));
  }
}

function differenceCell(actual, predicted, difference, _, size) {
  const largest = Math.max(1, ...report.matrix[1].flat().map(Math.abs));
  const isGood = (actual === predicted) === difference > 0;
  const strength = difference && 0.16 + 0.84 * Math.sqrt(Math.abs(difference) / largest);
  const deep = strength > 0.8, bright = strength > 0.6;
  const description = `${signed(difference, 0)} of ${pair.b} relative to ${pair.a}`;
  return matrixCell(actual, predicted, { text: difference ? signed(difference, 0) : "", strength, isGood, deep, bright, size, description });
}

function setUpFilters() {
  byId("show").append(new Option("either", ""), new Option(`only ${pair.b}`, "b"), new Option(`only ${pair.a}`, "a"));
  for (const [id, sets] of [["true", all.map((clip) => clip.actual)], ["predicted", all.flatMap((clip) => clip.answers.map(({ labels }) => labels))]]) {
    byId(id).append(new Option("any", ""), ...[...new Set(sets.flatMap((labels) => (labels.length ? labels : [NOTHING])))].sort().map((label) => new Option(label, label)));
  }
  setUpList(showClips, () => setFilters({}));
}

function setFilters(wanted) {
  for (const field of FIELDS) byId(field).value = wanted[field] ?? "";
  showClips();
}

function showClips() {
  const [show, actual, predicted, search] = FIELDS.map((field) => byId(field).value);
  const text = search.trim().toLowerCase();
  shown = all.filter((clip) => (!show || clip.correct === show) && clip.searchText.includes(text)
    && clip.answers.some(({ labels }) => isWanted({ actual: clip.actual, predicted: labels }, actual, predicted)));
  selectCell(actual, predicted);
  const part = shown.length ? `${formatCount(shown.length)} of ${clips(all.length)}` : `None of ${clips(all.length)} match.`;
  byId("count").textContent = all.length < pair.clip_count ? `${part}; ${clips(pair.clip_count - all.length)} are not listed` : part;
  showList();
}

function card(clip) {
  const item = element("li", { class: "clip", tabindex: "-1", "data-clip": clip.number });
  item.append(
    element("h3", {}, element("span", {}, describe(clip.actual)), element("small", {}, `only ${pair[clip.correct]}`)),
    element("p", { class: "about" }, [clip.name, clip.group, clip.seconds && `${clip.seconds.toFixed(2)}\u00a0s`].filter(Boolean).join(" · ")));
  const controls = appendMedia(item, clip);
  controls.append(element("ol", { class: "top answers", "aria-label": "Predicted classes" }, ...clip.answers.map(({ labels, probability }, run) =>
    element("li", { class: describe(labels) === describe(clip.actual) ? "true" : "" },
      element("span", { title: describe(labels) }, `${[pair.a, pair.b][run]}: ${describe(labels)}`),
      element("meter", { value: probability, "aria-hidden": "true" }), element("span", {}, percent(probability))))));
  item.append(controls);
  return item;
}

function openCell(cell) {
  setFilters({ true: report.labels[cell.dataset.true], predicted: report.labels[cell.dataset.predicted] });
  toClips();
}

renderHeader();
drawTables();
drawCurves(report.curve_names);
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
  setUpShortcuts(() => setFilters({}));
}
