// Two classes: the curves over thresholds, and a threshold that decides on all predictions below.

const hasThresholds = report.operating.length > 0;
const operating = { label: 0, points: [], index: 0 };  // the positive class, and the point on its curves

const isDefault = ([threshold]) => threshold === 0.5;

function choosePositive(label) {
  Object.assign(operating, { label, ...report.operating[label] });
  operating.index = operating.points.findIndex(isDefault);
}

// The threshold that decides on the clips; null for 0.5, with which the most probable class is predicted.
function chosenThreshold() {
  const point = hasThresholds && operating.points[operating.index];
  return point && !isDefault(point) ? { label: operating.label, value: Math.fround(point[0]) } : null;  // as the probabilities
}

const formatThreshold = (value) => (value > 0.999 || value < 0.001 ? String(Number(value.toPrecision(6))) : value.toFixed(3));

// The rarer class is the one to detect.
const DEFAULT_POSITIVE = hasThresholds && report.operating[0].positives < report.operating[1].positives ? 0 : 1;

function setUpThresholds(change) {
  byId("operating").hidden = !hasThresholds;
  if (!hasThresholds) return;
  report.labels.forEach((label, index) => byId("positive").append(new Option(label, index)));
  byId("positive").addEventListener("change", () => { choosePositive(Number(byId("positive").value)); change(); });
  byId("threshold").addEventListener("input", () => { operating.index = Number(byId("threshold").value); drawThreshold(); });
  byId("threshold").addEventListener("change", change);  // the clips follow when it is released
  byId("wrong").addEventListener("click", () => { setFilters({ ...filterState(), true: "", predicted: "", search: "", show: "errors" }); toClips(); });
}

// Sets the point from the filters: the positive class, and the index of the point; empty for the defaults.
function restoreThreshold(positive, index) {
  if (!hasThresholds) return;
  choosePositive(positive === "0" || positive === "1" ? Number(positive) : DEFAULT_POSITIVE);
  if (index !== "" && operating.points[index]) operating.index = Number(index);
}

function drawThreshold() {
  if (!hasThresholds) return;
  const { label, positives, negatives, points, index, auc, average_precision: averagePrecision } = operating;
  const [value, detected, false_] = points[index];
  const name = report.labels[label];
  const recall = detected / positives, rate = false_ / negatives;
  const precision = detected + false_ ? detected / (detected + false_) : null;
  const wrong = positives - detected + false_;
  byId("positive").value = label;
  byId("threshold").max = points.length - 1;
  byId("threshold").value = index;
  byId("threshold").setAttribute("aria-valuetext", `${formatThreshold(value)}: recall ${percent(recall)}, false positive rate ${percent(rate)}`);
  byId("threshold-value").textContent = `${formatThreshold(value)}${isDefault(points[index]) ? ": the most probable class" : ""}`;
  const rows = [["recall", percent(recall), `${formatCount(detected)} of ${clips(positives)} of ${name}`],
    ["precision", precision === null ? "–" : percent(precision), `${formatCount(detected)} of ${clips(detected + false_)} classified as ${name}`],
    ["false positive rate", percent(rate), `${formatCount(false_)} of ${clips(negatives)} of ${report.labels[1 - label]}`]];
  byId("rates").replaceChildren(...rows.map(([title, text, detail]) =>
    element("div", {}, element("dt", {}, title), element("dd", {}, text, element("small", {}, detail)))));
  byId("wrong").textContent = wrong ? `show the ${clips(wrong)} that ${wrong === 1 ? "is" : "are"} wrong` : "no clip is wrong";
  byId("wrong").disabled = !wrong;
  const roc = points.map(([, own, other]) => [other / negatives, own / positives]);
  const pr = points.filter(([, own, other]) => own + other).map(([, own, other]) => [own / positives, own / (own + other)]);
  byId("threshold-plots").replaceChildren(
    rateCurve(`ROC: recall, %. Area ${auc.toFixed(3)}`, "false positive rate, %", [...roc, [0, 0]], [rate, recall], [[0, 0], [1, 1]]),
    rateCurve(`Precision, %. Average precision ${averagePrecision.toFixed(3)}`, "recall, %", pr, [recall, precision],
      [[0, positives / (positives + negatives)], [1, positives / (positives + negatives)]]));
}

function rateCurve(title, horizontal, points, [at, height], chance) {
  const { plot, x, y } = plotFrame(title, { ...FRACTIONS, title: horizontal }, FRACTIONS, 366, 260);
  const path = (line) => line.map((point) => `${x(point[0])},${y(point[1])}`).join(" ");
  plot.append(svgElement("polyline", { class: "ideal", fill: "none", points: path(chance) }, svgElement("title", {}, "chance")),
    svgElement("polyline", { class: "curve head-5", points: path(points) }));
  if (height !== null) plot.append(svgElement("circle", { class: "mark", cx: x(at), cy: y(height), r: 5 }));
  return element("figure", {}, element("figcaption", {}, title), plot);
}
