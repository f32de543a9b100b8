// The clips: which of them are shown, in which order, and how each sounds and looks.

const PAGE = 24;  // clips that are added at once
const ORDERS = {
  telling: ["surest errors first", (a, b) => a.number - b.number],
  sure: ["confidence, highest first", (a, b) => b.confidence - a.confidence],
  unsure: ["confidence, lowest first", (a, b) => a.confidence - b.confidence],
  short: ["length, shortest first", (a, b) => a.seconds - b.seconds],
  long: ["length, longest first", (a, b) => b.seconds - a.seconds],
  quiet: ["level, quietest first", (a, b) => a.level - b.level],
  loud: ["level, loudest first", (a, b) => b.level - a.level],
  path: ["path", (a, b) => (a.path < b.path ? -1 : 1)],
};
const all = report.clips.map(([path, group, actual, seconds, level, top], number) => ({
  number, path, group, seconds, level, top, actual: report.labels[actual], predicted: report.labels[top[0][0]],
  confidence: top[0][1], found: `${path} ${group ?? ""}`.toLowerCase(),
}));
const DEFAULTS = { true: "", predicted: "", show: report.right < report.count ? "errors" : "all", sort: "telling", search: "" };
const FIELDS = Object.keys(DEFAULTS);
let shown = [];

function offerFilters() {
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
    && (state.show === "all" || clip.actual !== clip.predicted) && clip.found.includes(search));
  shown.sort((a, b) => ORDERS[state.sort][1](a, b) || a.number - b.number);
  const changed = FIELDS.filter((field) => state[field] !== DEFAULTS[field]);
  const hash = new URLSearchParams(changed.map((field) => [field, state[field]])).toString();
  history.replaceState(null, "", hash ? `#${hash}` : "#");
  for (const cell of document.querySelectorAll(".matrix td[data-true]")) {
    cell.setAttribute("aria-selected", String(Boolean(state.true && state.predicted)
      && report.labels[cell.dataset.true] === state.true && report.labels[cell.dataset.predicted] === state.predicted));
  }
  const part = shown.length ? `${counted(shown.length)} of ${clips(all.length)}` : `None of ${clips(all.length)} is so.`;
  byId("count").textContent = all.length < report.count ? `${part}; ${clips(report.count - all.length)} are not listed` : part;
  byId("list").replaceChildren();
  showMore(false);
}

function showMore(focus) {
  const list = byId("list");
  const first = list.children.length;
  list.append(...shown.slice(first, first + PAGE).map(card));
  const rest = shown.length - list.children.length;
  byId("more").hidden = rest <= 0;
  byId("more").textContent = `${counted(Math.min(PAGE, rest))} more of ${counted(rest)}`;
  if (focus) list.children[first]?.focus();
}

function card(clip) {
  const hit = clip.actual === clip.predicted;
  const made = element("li", { class: `clip ${hit ? "right" : "error"}`, tabindex: "-1", "data-clip": clip.number });
  const said = element("span", { class: "said" }, clip.predicted);
  made.append(
    element("h3", {}, element("span", {}, ...(hit ? [said] : [clip.actual, " taken for ", said])), element("small", {}, percent(clip.confidence))),
    element("p", { class: "about" }, [clip.path, clip.group, `${clip.seconds.toFixed(2)}\u00a0s`, `${fixed(clip.level, 1)}\u00a0dBFS`]
      .filter((part) => part !== null).join(" · ")));
  const block = byId(`clip-${clip.number}`);
  const media = block && JSON.parse(block.textContent);
  const controls = element("div", { class: "controls" });
  if (media) {
    made.append(sight(clip, media));
    controls.append(player(made, clip, media.sound));
  } else made.append(element("p", { class: "absent" }, "Sound and picture are left out."));
  controls.append(element("ol", { class: "top", "aria-label": "Most probable classes" }, ...clip.top.map(([label, share]) =>
    element("li", { class: report.labels[label] === clip.actual ? "true" : "" }, element("span", { title: report.labels[label] }, report.labels[label]),
      element("meter", { value: share, "aria-hidden": "true" }), element("span", {}, percent(share))))));
  made.append(controls);
  return made;
}

function sight(clip, media) {
  const image = element("img", { src: media.picture, alt: `Spectrogram of ${clip.path}`, draggable: "false" });
  const overlay = drawn("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  (media.attention ?? []).forEach((line, head) => {
    const points = line.map((weight, index) => `${(100 * (index + 0.5)) / line.length},${97 - 0.94 * weight}`);
    for (const kind of ["halo", `head-${(head % 4) + 1}`]) overlay.append(drawn("polyline", { class: kind, points: points.join(" ") }));
  });
  const hertz = element("div", { class: "hertz", "aria-hidden": "true" });
  for (const [share, text] of hertzTicks()) {
    const tick = element("span", {}, text);
    tick.style.bottom = `${100 * share}%`;
    hertz.append(tick);
  }
  const seconds = element("div", { class: "seconds", "aria-hidden": "true" });
  for (const share of [0, 0.5, 1]) {
    const tick = element("span", {}, share ? `${(share * clip.seconds).toFixed(clip.seconds < 10 ? 2 : 1)}${share === 1 ? " s" : ""}` : "0");
    tick.style.left = `${100 * share}%`;
    seconds.append(tick);
  }
  return element("div", { class: "player" }, hertz, element("div", { class: "sight" }, image, overlay, element("div", { class: "now" })), seconds);
}

// Where round frequencies lie among the bands' centres, from below: [share of the height, text].
function hertzTicks() {
  const centres = report.frequencies;
  const ticks = [];
  for (const hertz of [100, 250, 500, 1000, 2000, 4000, 8000, 16000]) {
    const above = centres.findIndex((centre) => centre >= hertz);
    if (above < 1) continue;
    const between = (hertz - centres[above - 1]) / (centres[above] - centres[above - 1]);
    const share = (above - 0.5 + between) / centres.length;
    if (!ticks.length || share - ticks.at(-1)[0] > 0.12) ticks.push([share, hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`]);
  }
  return ticks;
}

let sounding = null;  // one clip at a time

function player(made, clip, source) {
  const icon = (kind, d) => drawn("svg", { class: kind, viewBox: "0 0 10 10", "aria-hidden": "true" }, drawn("path", { d }));
  const button = element("button", { type: "button", class: "play", "aria-label": `Play ${clip.path}` }, icon("start", "M2 0L10 5L2 10Z"), icon("pause", "M1 0H4V10H1ZM6 0H9V10H6Z"));
  const audio = element("audio", { src: source, preload: "none" });
  const now = made.querySelector(".now");
  const follow = () => {
    now.style.left = `${(100 * audio.currentTime) / clip.seconds}%`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  const ended = () => made.classList.remove("playing");
  audio.addEventListener("play", () => { made.classList.add("playing"); follow(); });
  audio.addEventListener("pause", ended);
  const play = () => {
    if (sounding && sounding !== audio) sounding.pause();
    sounding = audio;
    audio.play().catch((error) => { button.title = String(error); });
  };
  button.addEventListener("click", () => (audio.paused ? play() : audio.pause()));
  made.querySelector(".sight").addEventListener("click", (event) => {
    const frame = event.currentTarget.getBoundingClientRect();
    audio.currentTime = ((event.clientX - frame.left) / frame.width) * clip.seconds;
    play();
  });
  made.append(audio);
  return button;
}

function moveInList(step) {
  const cards = [...byId("list").children];
  const at = cards.indexOf(document.activeElement.closest(".clip"));
  if (at + step >= cards.length && !byId("more").hidden) showMore(true);
  else cards[at < 0 ? 0 : Math.max(0, Math.min(cards.length - 1, at + step))]?.focus();
}

function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select");
    if (event.key === "Escape") { setFilters({}); document.activeElement.blur(); return; }
    if (typing) return;
    const here = event.target.closest(".clip");
    const deeds = {
      j: () => moveInList(1), k: () => moveInList(-1),
      m: () => document.querySelector(".matrix td[tabindex='0']").focus(),
      e: () => setFilters({ ...Object.fromEntries(FIELDS.map((field) => [field, byId(field).value])), show: byId("show").value === "all" ? "errors" : "all" }),
      "/": () => byId("search").focus(),
    };
    if (event.target === here && (event.key === " " || event.key === "Enter")) here.querySelector(".play")?.click();
    else if (deeds[event.key]) deeds[event.key]();
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

function tellClips() {
  const heads = byId("clip-0") && JSON.parse(byId("clip-0").textContent).attention;
  byId("clips-caption").textContent = "Spectrograms are log-mel, 70 dB deep from each clip’s peak"
    + `${heads ? `, with the attention of ${heads.length === 1 ? "the head" : `each of ${heads.length} heads`} as a line, relative to the clip’s largest weight` : ""}.`
    + " Sound is compressed for the page, and cropped as it was classified.";
}

tellHeadline();
drawMatrix(openCell);
drawReliability();
drawClasses((label) => { setFilters({ true: label, show: "all" }); toClips(); });
drawStrata();
tellClips();
offerFilters();
setFilters(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
listen();
