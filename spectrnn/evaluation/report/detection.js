// The page of a threshold tuning.

const classes = report.classes.map(([name, threshold, recall, confusion, rate, points]) => ({ name, threshold, recall, confusion, rate, points }));
const all = report.clips.map(([kind, label, path, start, end, value], number) => ({
  number, kind, label, start, value, name: describeSource({ path, start, end }), searchText: path.toLowerCase(),
}));
const FIELDS = ["show", "of", "search"];
const NONE = 0.5 / report.hours;  // stands for no false alarm, which a logarithmic axis cannot show
let chosen = classes[0];  // the class whose curve is shown, and the point on it
let point = 0;

const sounds = (number) => `${formatCount(number)} ${number === 1 ? "sound" : "sounds"}`;
const hours = (number) => (number < 2 ? `${Number((60 * number).toPrecision(2))}\u00a0min` : `${Number(number.toPrecision(3))}\u00a0h`);
const perHour = (rate) => (rate < 100 ? Number(rate.toPrecision(3)).toString() : formatCount(Math.round(rate)));
const known = (value, format) => (value === null ? "–" : format(value));
const formatThreshold = (value) => (value > 0.999 || value < 0.001 ? String(Number(value.toPrecision(6))) : value.toFixed(3));

function renderHeader() {
  byId("subject").textContent = `${report.model}, recall on ${report.split === "all" ? "all clips" : `the ${report.split} split`}`;
  byId("claim").textContent = `Recall ${known(report.recall, percent)} at up to ${perHour(report.target)} false ${report.target === 1 ? "alarm" : "alarms"} per hour and class`;
  const are = report.false_alarm_count === 1 ? "was 1 false alarm" : `were ${formatCount(report.false_alarm_count)} false alarms`;
  byId("lead").textContent = `At the chosen thresholds there ${are} in ${hours(report.hours)} without events, and ${clips(report.miss_count)} ${report.miss_count === 1 ? "was" : "were"} missed.`;
  for (const note of report.notes) byId("notes").append(element("li", {}, capitalized(note)));
  figures("headline", [
    ["recall", known(report.recall, percent), "mean over the classes"],
    ["false alarms per hour", perHour(report.false_alarm_count / report.hours), `all classes; at most ${perHour(report.target)} of each`],
    ["recordings without events", hours(report.hours), `windows of ${report.window}\u00a0s`],
    ["classes at the target", `${formatCount(report.reached)} of ${formatCount(report.class_count)}`, ""],
  ]);
  byId("curve-caption").textContent = "Each line is a class, each point on it a threshold. The dot is the chosen threshold: the lowest from which on "
    + "there are at most as many false alarms as the dashed line allows.";
  byId("clips-caption").textContent = "False alarms with the highest probability first, each with a second of sound before and after it; then missed clips, "
    + "the hardest to detect first. Each sound is at most 6\u00a0s long.";
  byId("imprint").textContent = `spectrnn ${report.version}. The thresholds are in ${report.model}.`;
}

function figures(id, rows) {
  byId(id).replaceChildren(...rows.map(([title, text, detail]) =>
    element("div", {}, element("dt", {}, title), element("dd", {}, text, element("small", {}, detail)))));
}

// The index of the threshold that was chosen among the points of a curve, which has the changes only.
const chosenPoint = ({ points, threshold }) => points.findLastIndex(([value]) => value <= threshold);

function choose(name) {
  chosen = classes.find((own) => own.name === name) ?? classes[0];
  point = chosenPoint(chosen);
  drawPoint();
}

function drawPoint() {
  const [value, rate, recall] = chosen.points[point];
  const isChosen = point === chosenPoint(chosen);
  byId("class").value = chosen.name;
  byId("threshold").max = chosen.points.length - 1;
  byId("threshold").value = point;
  byId("threshold").setAttribute("aria-valuetext", `${formatThreshold(value)}: recall ${known(recall, percent)}, ${perHour(rate)} false alarms per hour`);
  byId("threshold-value").textContent = isChosen ? `${formatThreshold(chosen.threshold)}: chosen` : formatThreshold(value);
  figures("rates", [
    ["recall", known(recall, percent), chosen.name],
    ["false alarms per hour", perHour(rate), `${formatCount(Math.round(rate * report.hours))} in ${hours(report.hours)}`],
  ]);
  byId("threshold-plots").replaceChildren(drawRates(value, rate, recall));
}

function drawRates(value, rate, recall) {
  const position = (number) => Math.log10(Math.max(number, NONE));
  const most = Math.max(report.target, ...classes.flatMap(({ points }) => points.map((other) => other[1])), 2 * NONE);
  const first = Math.floor(Math.log10(NONE)) + 1, last = Math.ceil(position(most));
  const powers = Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);
  const ticks = [position(0), ...powers.filter((power) => power > position(0) + 0.25 || power === last)];
  const format = (tick) => (tick === ticks[0] ? "0" : perHour(10 ** tick));
  const { plot, x, y } = plotFrame(`Recall against false alarms per hour of ${chosen.name}`, { ticks, format, title: "false alarms per hour" }, FRACTIONS, 366, 240);
  const path = ({ points }) => points.map((other) => `${x(position(other[1]))},${y(other[2] ?? 0)}`).join(" ");
  const title = (own) => svgElement("title", {}, `${own.name}: recall ${known(own.recall, percent)}, ${perHour(own.rate)} false alarms per hour at ${formatThreshold(own.threshold)}`);
  for (const own of classes.filter((other) => other !== chosen && other.recall !== null)) {
    plot.append(svgElement("polyline", { class: "curve other", points: path(own) }, title(own)));
  }
  if (report.target) plot.append(svgElement("path", { class: "ideal", d: `M${x(position(report.target))} ${y(0)}V${y(1)}` }, svgElement("title", {}, "target")));
  plot.append(svgElement("polyline", { class: "curve head-5", points: path(chosen) }, title(chosen)),
    svgElement("circle", { class: "mark", cx: x(position(chosen.rate)), cy: y(chosen.recall ?? 0), r: 5 }, title(chosen)));
  if (point !== chosenPoint(chosen)) plot.append(svgElement("circle", { class: "kept head-1", cx: x(position(rate)), cy: y(recall ?? 0), r: 4.5 }, svgElement("title", {}, formatThreshold(value))));
  return element("figure", {}, element("figcaption", {}, `Recall, %, of ${chosen.name}`), plot);
}

function drawClasses() {
  const fraction = { isNumber: true, format: (value) => known(value, percent) };
  const { table } = sortableTable([
    { title: "class" }, { title: "threshold", isNumber: true, format: formatThreshold }, { title: "recall", ...fraction }, { title: "confusion", ...fraction },
    { title: "alarms/h", isNumber: true, format: (rate) => `${perHour(rate)}${rate > report.target * (1 + 1e-9) ? ": above the target" : ""}` },
  ], classes.map(({ name, threshold, recall, confusion, rate }) => [name, threshold, recall, confusion, rate]),
  { sorted: 2, open: ([name]) => { choose(name); setFilters({ of: name }); byId("curve-title").scrollIntoView(); }, hint: "Show its curve and its sounds" });
  byId("classes").append(table);
  byId("classes-caption").textContent = `${classes.length < report.class_count ? `The ${classes.length} of ${formatCount(report.class_count)} classes with the lowest recall. ` : ""}`
    + "Recall: detected fraction of the clips of the class, each in silence. Confusion: of all other clips. Select a class to see its curve and its sounds.";
}

function setFilters(wanted) {
  for (const field of FIELDS) byId(field).value = wanted[field] ?? "";
  showClips();
}

function showClips() {
  const [show, label, search] = FIELDS.map((field) => byId(field).value);
  const text = search.trim().toLowerCase();
  shown = all.filter((clip) => (!show || clip.kind === show) && (!label || clip.label === label) && clip.searchText.includes(text));
  byId("count").textContent = shown.length ? `${formatCount(shown.length)} of ${sounds(all.length)}` : `None of ${sounds(all.length)} match.`;
  showList();
}

function card(clip) {
  const isAlarm = clip.kind === "alarm";
  const block = byId(`clip-${clip.number}`);
  const { start, seconds } = block ? JSON.parse(block.textContent) : clip;
  const item = element("li", { class: "clip error", tabindex: "-1", "data-clip": clip.number });
  item.append(
    element("h3", {}, element("span", {}, ...(isAlarm ? ["false alarm: ", element("span", { class: "predicted" }, clip.label)] : [`missed: ${clip.label}`])),
      element("small", { title: isAlarm ? "highest probability" : "highest threshold at which it is detected" },
        isAlarm ? formatThreshold(clip.value) : clip.value === null ? "not detected" : `detected at ${formatThreshold(clip.value)}`)),
    element("p", { class: "about" }, [clip.name, isAlarm && block && `played from ${start}\u00a0s`].filter(Boolean).join(" · ")));
  item.append(appendMedia(item, { ...clip, seconds }));
  return item;
}

renderHeader();
drawClasses();
for (const { name } of classes) byId("class").append(new Option(name, name));
byId("class").addEventListener("change", () => choose(byId("class").value));
byId("threshold").addEventListener("input", () => { point = Number(byId("threshold").value); drawPoint(); });
byId("of").append(new Option("any", ""), ...[...new Set(all.map((clip) => clip.label))].sort().map((label) => new Option(label, label)));
if (chosen) choose(chosen.name);
setUpList(showClips, () => setFilters({}));
setFilters({});
setUpShortcuts(() => setFilters({}));
