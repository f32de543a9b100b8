// Clips that are marked as mislabelled, with new labels. Marks are kept by the browser for the clips of this dataset.

const STORE = `spectrnn marks ${report.key}`;
const keyOf = (clip) => JSON.stringify([sourcePath(clip, false), clip.start, clip.end]);
const marks = new Map(readMarks());  // new label by clip

function readMarks() {
  try {  // a browser may refuse, and anything may have been stored
    return Object.entries(JSON.parse(localStorage.getItem(STORE)) ?? {}).filter(([, label]) => typeof label === "string");
  } catch { return []; }
}

function storeMarks() {
  try {
    if (marks.size) localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(marks)));
    else localStorage.removeItem(STORE);
    return true;
  } catch { return false; }
}

const isMarked = (clip) => marks.has(keyOf(clip));

// Marks a clip with a new label; null removes the mark.
function mark(clip, label) {
  if (label === null) marks.delete(keyOf(clip));
  else marks.set(keyOf(clip), label);
  describeMarks(storeMarks());
}

// The label that is likely to be right: the prediction or, if it is the label, the next probable class. Several labels are
// joined as in tables, and the prediction is what they are edited from.
function suggestedLabel(clip) {
  if (report.has_sets || !clip.isCorrect) return joinLabels(clip.predicted);
  return report.labels[clip.scores.find(([label]) => !clip.actual.includes(report.labels[label]))?.[0]] ?? "";
}

// The new label with a class: in place of another one or, with several labels, added to them, or removed.
function withLabel(clip, label) {
  if (!report.has_sets) return label;
  const labels = new Set((marks.get(keyOf(clip)) ?? joinLabels(clip.actual)).split(";").map((own) => own.trim()).filter(Boolean));
  if (!labels.delete(label)) labels.add(label);
  return joinLabels([...labels].sort());
}

function setUpMarks() {
  byId("labels").append(...report.labels.filter(Boolean).map((label) => new Option(label, label)));
  byId("save-marks").addEventListener("click", () => saveCsv("corrected.csv", manifestRows()));
  byId("clear-marks").addEventListener("click", () => {
    if (confirm(`Remove the marks of ${clips(markedClips().length)}?`)) { marks.clear(); describeMarks(storeMarks()); showClips(); }
  });
  describeMarks(true);
}

const markedClips = () => all.filter(isMarked);

function describeMarks(isStored) {
  const count = markedClips().length;
  byId("marks-count").textContent = `${count ? clips(count) : "No clip"} marked as mislabelled.`
    + (isStored ? "" : " The browser does not keep marks of this page: download them before you close it.");
  byId("save-marks").disabled = byId("clear-marks").disabled = !count;
}

// A manifest of the marked clips, as data=manifest reads it; a mark without a new label is left out unless clips may have none.
function manifestRows() {
  const rows = markedClips().map((clip) => [sourcePath(clip, true), clip.start || "", clip.end ?? "", marks.get(keyOf(clip)), clip.group ?? ""])
    .filter((row) => report.has_sets || row[3].trim());
  const head = ["path", "start", "end", "label", "group"];
  return [head, ...rows].map((row) => (rows.some((own) => own[4]) ? row : row.slice(0, 4)));
}

// The control of a card: a button that marks its clip, and the new label.
function markControl(item, clip) {
  const toggle = button("mislabelled", () => setMark(isMarked(clip) ? null : suggestedLabel(clip)), { class: "flag", "aria-label": `Mark ${clip.name} as mislabelled` });
  const [name, placeholder] = report.has_sets ? ["New labels, separated by semicolons, ", "no class"] : ["New label ", "new label"];
  const field = element("input", { list: "labels", "aria-label": `${name}of ${clip.name}`, placeholder, autocomplete: "off" });
  field.addEventListener("input", () => setMark(field.value));
  const setMark = (label) => {
    mark(clip, label);
    // A clip of the map has a card there, too.
    for (const card of document.querySelectorAll(`.clip[data-clip="${clip.number}"]`)) card.showMark();
  };
  const show = () => {
    item.classList.toggle("marked", isMarked(clip));
    toggle.setAttribute("aria-pressed", String(isMarked(clip)));
    field.hidden = !isMarked(clip);
    field.value = marks.get(keyOf(clip)) ?? "";
  };
  Object.assign(item, { setMark, showMark: show });
  show();
  return element("div", { class: "marking" }, toggle, field);
}
