// The page to label clips: a card per clip, a key per label. Labels are kept by the browser until they are downloaded.

const KEYS = "123456789abcdefghilmnopqrstuvwyz";  // j and k move, x removes
const NO_CLASS = "0";
const STORE = `spectrnn labels ${report.base} ${report.model}`;
const all = report.clips.map(([path, group, start, end, seconds, uncertainty, scores], number) => ({
  number, path, group, seconds, uncertainty, scores, name: describeSource({ path: group, start, end }),
}));
const labels = new Map(readLabels());  // by path

function readLabels() {
  try {  // a browser may refuse, and anything may have been stored
    return Object.entries(JSON.parse(localStorage.getItem(STORE)) ?? {}).filter(([, label]) => typeof label === "string");
  } catch { return []; }
}

function storeLabels() {
  try {
    localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(labels)));
    return true;
  } catch { return false; }
}

// A typed label without blanks counts; an empty one only if clips may have no class.
const isLabelled = (clip) => labels.has(clip.path) && (report.has_sets || labels.get(clip.path).trim() !== "");
const labelled = () => all.filter(isLabelled);

function describeProgress(isStored) {
  const count = labelled().length;
  byId("count").textContent = `${formatCount(count)} of ${clips(all.length)} labelled.`
    + (isStored ? "" : " The browser does not keep labels of this page: download them before you close it.");
  byId("save").disabled = byId("clear").disabled = !count;
}

// The label with a class: in place of another one or, with several labels, added to them, or removed.
function withLabel(clip, label) {
  if (!report.has_sets) return label;
  const own = new Set((labels.get(clip.path) ?? "").split(";").map((name) => name.trim()).filter(Boolean));
  if (!own.delete(label)) own.add(label);
  return [...own].sort().join(";");
}

function card(clip) {
  const item = element("li", { class: "clip", tabindex: "-1", "data-clip": clip.number });
  const title = element("span", {});
  item.append(element("h3", {}, title, element("small", { title: "uncertainty of the model" }, percent(clip.uncertainty, 0))),
    element("p", { class: "about" }, `${clip.name} · ${clip.seconds.toFixed(2)}\u00a0s`));
  const block = byId(`clip-${clip.number}`);
  const controls = element("div", { class: "controls" });
  if (block) {
    const media = JSON.parse(block.textContent);
    item.append(spectrogramView(clip, media));
    controls.append(element("div", { class: "buttons" }, ...player(item, clip, media.audio)));
  } else item.append(element("p", { class: "absent" }, `Audio and spectrogram are omitted; listen to ${clip.path}.`));
  controls.append(element("ol", { class: "top", "aria-label": "Most probable classes" }, ...clip.scores.map(([label, probability]) => {
    const name = report.labels[label];
    return element("li", {}, button(name, () => item.setLabel(withLabel(clip, name)), { title: `Label as ${name}` }),
      element("meter", { value: probability, "aria-hidden": "true" }), element("span", {}, percent(probability)));
  })));
  const field = element("input", { list: "labels", "aria-label": `Label of ${clip.name}`, placeholder: report.has_sets ? "labels; separated" : "label", autocomplete: "off" });
  const show = () => {
    item.classList.toggle("marked", isLabelled(clip));
    title.textContent = isLabelled(clip) ? labels.get(clip.path).trim() || NOTHING : "not labelled";
    if (document.activeElement !== field) field.value = labels.get(clip.path) ?? "";
  };
  item.setLabel = (label) => {
    if (label === null) labels.delete(clip.path);
    else labels.set(clip.path, label);
    describeProgress(storeLabels());
    show();
  };
  field.addEventListener("input", () => item.setLabel(field.value));
  field.addEventListener("blur", show);
  item.append(controls, element("div", { class: "marking" }, field));
  show();
  return item;
}

function move(step) {
  moveInList(step);
  document.activeElement.closest(".clip")?.querySelector(".play")?.click();
}

// The keys of labels: of one label per clip they also move on, to the next clip, which plays.
function useLabelKey(item, key) {
  const label = report.labels[KEYS.indexOf(key)];
  if (key === "x") item.setLabel(null);
  else if (key === NO_CLASS && report.has_sets) item.setLabel("");
  else if (label !== undefined && KEYS.includes(key)) {
    item.setLabel(withLabel(all[item.dataset.clip], label));
    if (!report.has_sets) move(1);
  } else if (key === "/") item.querySelector(".marking input").focus();
  else return false;
  return true;
}

// A manifest of the labelled clips, as data=manifest reads it, with absolute paths: it may be saved anywhere.
function manifestRows() {
  return [["path", "label", "group"], ...labelled().map((clip) => [report.base + clip.path, labels.get(clip.path).trim(), clip.group])];
}

function render() {
  byId("subject").textContent = report.model;
  byId("claim").textContent = `${capitalized(clips(all.length))} to label`;
  byId("lead").textContent = `Press the key of the label of each clip, then download the labels as ${report.table}: a table to train with.`;
  byId("keys-caption").textContent = report.has_sets
    ? `A key adds a class to the clip or removes it; ${NO_CLASS} means that no class sounds.`
    : "A key labels the clip and plays the next one. Type other labels, which the model does not know, into the field of a clip.";
  const keys = [...KEYS].slice(0, report.labels.length);
  byId("keys").append(...keys.map((key, index) => element("li", {}, element("kbd", {}, key), report.labels[index])));
  byId("labels").append(...report.labels.map((label) => new Option(label, label)));
  byId("imprint").textContent = report.imprint;
  byId("list").append(...all.map(card));
  byId("save").addEventListener("click", () => saveCsv(report.table, manifestRows()));
  byId("clear").addEventListener("click", () => {
    if (!confirm(`Remove the labels of ${clips(labelled().length)}?`)) return;
    for (const item of byId("list").children) item.setLabel(null);
  });
  describeProgress(true);
}

render();
setUpShortcuts(() => {}, { j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1), "/": () => {} },
  (item, event) => useLabelKey(item, event.key));
byId("list").firstElementChild?.focus({ preventScroll: true });
