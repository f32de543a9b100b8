// The clips: filters, order and cards.

const ORDERS = {
  mostConfidentErrors: ["most confident errors first", (a, b) => a.number - b.number],
  confident: ["confidence, highest first", (a, b) => b.confidence - a.confidence],
  uncertain: ["confidence, lowest first", (a, b) => a.confidence - b.confidence],
  short: ["length, shortest first", (a, b) => a.seconds - b.seconds],
  long: ["length, longest first", (a, b) => b.seconds - a.seconds],
  quiet: ["level, quietest first", (a, b) => a.level - b.level],
  loud: ["level, loudest first", (a, b) => b.level - a.level],
  path: ["path", (a, b) => (a.path < b.path ? -1 : 1)],
};
const DEFAULTS = { true: "", predicted: "", show: report.correct < report.count ? "errors" : "all", sort: "mostConfidentErrors", search: "", positive: String(DEFAULT_POSITIVE), threshold: "" };
const FIELDS = Object.keys(DEFAULTS);
const CONTROLS = FIELDS.filter((field) => !["positive", "threshold"].includes(field));

function setUpFilters() {
  for (const [id, key] of [["true", "actual"], ["predicted", "predicted"]]) {
    const labels = [...new Set(all.flatMap((clip) => (hasThresholds ? report.labels : clip[key].length ? clip[key] : [NOTHING])))].sort();
    byId(id).append(new Option("any", ""), ...labels.map((label) => new Option(label, label)));
  }
  for (const [name, [text]] of Object.entries(ORDERS)) byId("sort").append(new Option(text, name));
  setUpList(showClips, () => setFilters({}));
  byId("save").addEventListener("click", () => saveCsv("predictions.csv", predictionRows(shown)));
}

function filterState() {
  const state = Object.fromEntries(CONTROLS.map((field) => [field, byId(field).value]));
  const chosen = chosenThreshold();
  return { ...state, positive: hasThresholds ? String(operating.label) : DEFAULTS.positive, threshold: chosen ? String(operating.index) : "" };
}

function setFilters(wanted) {
  for (const field of CONTROLS) {
    byId(field).value = wanted[field] ?? DEFAULTS[field];
    if (byId(field).selectedIndex === -1) byId(field).value = DEFAULTS[field];
  }
  restoreThreshold(wanted.positive ?? DEFAULTS.positive, wanted.threshold ?? "");
  decideAndShow();
}

// Shows the clips after a change of the threshold, which decides on them.
function decideAndShow() {
  decide(chosenThreshold());
  drawThreshold();
  if (hasThresholds) {
    byId("map-clip").replaceChildren();
    drawMap();
  }
  showClips();
}

const SHOWN = { errors: (clip) => !clip.isCorrect, all: () => true, marked: isMarked };

function showClips() {
  const state = filterState();
  const search = state.search.trim().toLowerCase();
  shown = all.filter((clip) => isWanted(clip, state.true, state.predicted) && SHOWN[state.show](clip) && clip.searchText.includes(search));
  shown.sort((a, b) => ORDERS[state.sort][1](a, b) || a.number - b.number);
  const changed = FIELDS.filter((field) => state[field] !== DEFAULTS[field]);
  const hash = new URLSearchParams(changed.map((field) => [field, state[field]])).toString();
  history.replaceState(null, "", hash ? `#${hash}` : "#");
  selectCell(state.true, state.predicted);
  const chosen = chosenThreshold();
  byId("count").textContent = [
    shown.length ? `${formatCount(shown.length)} of ${clips(all.length)}` : `None of ${clips(all.length)} match.`,
    all.length < report.count && `${clips(report.count - all.length)} are not listed`,
    chosen && `predictions at the threshold ${formatThreshold(chosen.value)} of ${report.labels[chosen.label]}`,
  ].filter(Boolean).join("; ");
  byId("save").disabled = !shown.length;
  showList();
}

function card(clip) {
  const item = element("li", { class: `clip ${clip.isCorrect ? "correct" : "error"}`, tabindex: "-1", "data-clip": clip.number });
  const predicted = element("span", { class: "predicted" }, describeLabels(clip.predicted));
  item.append(
    element("h3", {}, element("span", {}, ...(clip.isCorrect ? [predicted] : [describeLabels(clip.actual), " classified as ", predicted])), element("small", {}, percent(clip.confidence))),
    element("p", { class: "about" }, [clip.name, clip.group, `${clip.seconds.toFixed(2)}\u00a0s`, `${fixed(clip.level, 1)}\u00a0dBFS`]
      .filter((part) => part !== null).join(" · ")));
  const controls = appendMedia(item, clip);
  controls.append(element("ol", { class: "top", "aria-label": "Most probable classes" }, ...clip.scores.map(([label, probability]) =>
    element("li", { class: clip.actual.includes(report.labels[label]) ? "true" : "" }, element("span", { title: report.labels[label] }, report.labels[label]),
      element("meter", { value: probability, "aria-hidden": "true" }), element("span", {}, percent(probability))))));
  item.append(controls, markControl(item, clip));
  return item;
}

const SHORTCUTS = {
  m: () => document.querySelector(".matrix td[tabindex='0']")?.focus(),
  e: () => setFilters({ ...filterState(), show: byId("show").value === "all" ? "errors" : "all" }),
};

// x marks a clip or removes the mark, a digit marks it with the class at that place of its list, or adds or removes that class.
function useMarkKey(item, event) {
  const clip = all[item.dataset.clip];
  const score = clip.scores[Number(event.key) - 1];
  if (event.key === "x") item.setMark(isMarked(clip) ? null : suggestedLabel(clip));
  else if (score) item.setMark(withLabel(clip, report.labels[score[0]]));
  else return false;
  return true;
}

function openCell(cell) {
  openPair(report.labels[cell.dataset.true], report.labels[cell.dataset.predicted]);
}

function openPair(actual, predicted) {
  setFilters({ true: actual, predicted, show: "all" });
  toClips();
}

function renderClipsCaption() {
  const heads = byId("clip-0") && JSON.parse(byId("clip-0").textContent).attention;
  byId("clips-caption").textContent = "Log-mel spectrograms with a range of 70 dB below each clip’s peak"
    + `${heads ? `, with the attention weights of ${heads.length === 1 ? "the head" : `each of ${heads.length} heads`} as a line, relative to the clip’s largest weight` : ""}.`
    + " Audio is compressed for the page, and cropped as it was classified."
    + (report.has_sets ? " The percentage beside a title is the probability of the least certain of the clip’s decisions." : "");
}
