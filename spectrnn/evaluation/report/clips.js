// The clips: filters, order, players and spectrograms.

const PAGE_SIZE = 24;  // clips per "more"
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
const all = report.clips.map(([path, group, actual, seconds, level, top], number) => ({
  number, path, group, seconds, level, top, actual: report.labels[actual], predicted: report.labels[top[0][0]],
  confidence: top[0][1], searchText: `${path} ${group ?? ""}`.toLowerCase(),
}));
const DEFAULTS = { true: "", predicted: "", show: report.correct < report.count ? "errors" : "all", sort: "mostConfidentErrors", search: "" };
const FIELDS = Object.keys(DEFAULTS);
let shown = [];

function setUpFilters() {
  for (const [id, key] of [["true", "actual"], ["predicted", "predicted"]]) {
    const labels = [...new Set(all.map((clip) => clip[key]))].sort();
    byId(id).append(new Option("any", ""), ...labels.map((label) => new Option(label, label)));
  }
  for (const [name, [text]] of Object.entries(ORDERS)) byId("sort").append(new Option(text, name));
  byId("filters").addEventListener("input", showClips);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => setFilters({}));
  byId("more").addEventListener("click", () => showMore(true));
}

function setFilters(wanted) {
  for (const field of FIELDS) {
    byId(field).value = wanted[field] ?? DEFAULTS[field];
    if (byId(field).selectedIndex === -1) byId(field).value = DEFAULTS[field];
  }
  showClips();
}

function showClips() {
  const state = Object.fromEntries(FIELDS.map((field) => [field, byId(field).value]));
  const search = state.search.trim().toLowerCase();
  shown = all.filter((clip) => (!state.true || clip.actual === state.true)
    && (!state.predicted || clip.predicted === state.predicted)
    && (state.show === "all" || clip.actual !== clip.predicted) && clip.searchText.includes(search));
  shown.sort((a, b) => ORDERS[state.sort][1](a, b) || a.number - b.number);
  const changed = FIELDS.filter((field) => state[field] !== DEFAULTS[field]);
  const hash = new URLSearchParams(changed.map((field) => [field, state[field]])).toString();
  history.replaceState(null, "", hash ? `#${hash}` : "#");
  for (const cell of document.querySelectorAll(".matrix td[data-true]")) {
    cell.setAttribute("aria-selected", String(Boolean(state.true && state.predicted)
      && report.labels[cell.dataset.true] === state.true && report.labels[cell.dataset.predicted] === state.predicted));
  }
  const part = shown.length ? `${formatCount(shown.length)} of ${clips(all.length)}` : `None of ${clips(all.length)} match.`;
  byId("count").textContent = all.length < report.count ? `${part}; ${clips(report.count - all.length)} are not listed` : part;
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
  const hit = clip.actual === clip.predicted;
  const item = element("li", { class: `clip ${hit ? "correct" : "error"}`, tabindex: "-1", "data-clip": clip.number });
  const predicted = element("span", { class: "predicted" }, clip.predicted);
  item.append(
    element("h3", {}, element("span", {}, ...(hit ? [predicted] : [clip.actual, " classified as ", predicted])), element("small", {}, percent(clip.confidence))),
    element("p", { class: "about" }, [clip.path, clip.group, `${clip.seconds.toFixed(2)}\u00a0s`, `${fixed(clip.level, 1)}\u00a0dBFS`]
      .filter((part) => part !== null).join(" · ")));
  const block = byId(`clip-${clip.number}`);
  const media = block && JSON.parse(block.textContent);
  const controls = element("div", { class: "controls" });
  if (media) {
    item.append(spectrogramView(clip, media));
    controls.append(player(item, clip, media.audio));
  } else item.append(element("p", { class: "absent" }, "Audio and spectrogram are omitted."));
  controls.append(element("ol", { class: "top", "aria-label": "Most probable classes" }, ...clip.top.map(([label, probability]) =>
    element("li", { class: report.labels[label] === clip.actual ? "true" : "" }, element("span", { title: report.labels[label] }, report.labels[label]),
      element("meter", { value: probability, "aria-hidden": "true" }), element("span", {}, percent(probability))))));
  item.append(controls);
  return item;
}

function setUpShortcuts() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select");
    if (event.key === "Escape") { setFilters({}); document.activeElement.blur(); return; }
    if (typing) return;
    const here = event.target.closest(".clip");
    const shortcuts = {
      j: () => moveInList(1), k: () => moveInList(-1),
      m: () => document.querySelector(".matrix td[tabindex='0']").focus(),
      e: () => setFilters({ ...Object.fromEntries(FIELDS.map((field) => [field, byId(field).value])), show: byId("show").value === "all" ? "errors" : "all" }),
      "/": () => byId("search").focus(),
    };
    if (event.target === here && (event.key === " " || event.key === "Enter")) here.querySelector(".play")?.click();
    else if (shortcuts[event.key]) shortcuts[event.key]();
    else return;
    event.preventDefault();
  });
}

function openCell(cell) {
  const { true: actual, predicted } = cell.dataset;
  setFilters({ true: report.labels[actual], predicted: report.labels[predicted], show: "all" });
  toClips();
}

function toClips() {
  byId("clips").scrollIntoView();
  byId("list").firstElementChild?.focus({ preventScroll: true });
}

function renderClipsCaption() {
  const heads = byId("clip-0") && JSON.parse(byId("clip-0").textContent).attention;
  byId("clips-caption").textContent = "Log-mel spectrograms with a range of 70 dB below each clip’s peak"
    + `${heads ? `, with the attention weights of ${heads.length === 1 ? "the head" : `each of ${heads.length} heads`} as a line, relative to the clip’s largest weight` : ""}.`
    + " Audio is compressed for the page, and cropped as it was classified.";
}
