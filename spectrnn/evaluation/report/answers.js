// What the labels, the prediction and the correctness of a clip are: all else on the page asks here.

const all = report.clips.map(([path, start, end, group, actual, predicted, seconds, level, scores, leastCertain], number) => ({
  number, path, start, end, group, seconds, level, scores, leastCertain, name: describeSource({ path, start, end }),
  actual: actual.map((label) => report.labels[label]), mostProbable: predicted, searchText: `${path} ${group ?? ""}`.toLowerCase(),
}));
const sameLabels = (a, b) => a.length === b.length && a.every((label) => b.includes(label));
const describeLabels = (labels) => labels.join(", ") || NOTHING;
const joinLabels = (labels) => labels.join(";");  // as in tables

// All probabilities of the clips in the order of the list; null if the page has only the largest ones.
const probabilities = report.probabilities
  && new Float32Array(Uint8Array.from(atob(report.probabilities), (character) => character.charCodeAt(0)).buffer);

// The probability of a class (its number); undefined if the page does not have it.
function probabilityOf(clip, label) {
  return probabilities ? probabilities[clip.number * report.class_count + label] : clip.scores.find((score) => score[0] === label)?.[1];
}

// Sets the prediction of each clip: the most probable class or, of two classes, the one that a threshold decides on,
// given as { label, value } of the class that is predicted from this probability on.
function decide(threshold = null) {
  for (const clip of all) {
    const predicted = threshold === null ? clip.mostProbable
      : [probabilityOf(clip, threshold.label) >= threshold.value ? threshold.label : 1 - threshold.label];
    clip.predicted = predicted.map((label) => report.labels[label]);
    clip.isCorrect = sameLabels(clip.actual, clip.predicted);
    clip.confidence = clip.leastCertain ?? Math.max(...predicted.map((label) => probabilityOf(clip, label)));
  }
}

// The rows of predictions.csv of some clips. Without all probabilities there are those of the label and of the most
// probable classes, as in the table of many classes.
function predictionRows(shown) {
  const columns = ["path", "start", "end", "group", report.has_sets ? "labels" : "label", "predicted"];
  const classes = report.labels.slice(0, report.class_count);
  const format = (probability) => String(Number(probability.toPrecision(9)));
  const cells = shown.map((clip) => {
    const about = [sourcePath(clip, false), clip.start || "", clip.end ?? "", clip.group ?? "", joinLabels(clip.actual), joinLabels(clip.predicted)];
    if (probabilities) return [about, classes.map((_, label) => format(probabilityOf(clip, label)))];
    const own = report.has_sets ? [] : [format(clip.scores.find(([label]) => clip.actual.includes(report.labels[label]))[1])];
    const top = [...clip.scores].sort((a, b) => b[1] - a[1]).slice(0, TOP_K);
    return [about, [...own, ...top.flatMap(([label, probability]) => [report.labels[label], format(probability)])]];
  });
  const used = columns.map((_, column) => column === 0 || column > 3 || cells.some(([about]) => about[column] !== ""));
  const kept = (about) => about.filter((_, column) => used[column]);
  const numbered = Array.from({ length: Math.min(TOP_K, classes.length) }, (_, index) => [`class_${index + 1}`, `probability_${index + 1}`]).flat();
  return [[...kept(columns), ...(probabilities ? classes : [...(report.has_sets ? [] : ["label_probability"]), ...numbered])],
    ...cells.map(([about, values]) => [...kept(about), ...values])];
}

const TOP_K = 5;  // most probable classes of a clip

// The path of a clip's file: as the dataset has it, or one that is valid in every folder. Without a common folder of all
// clips, paths may be of any kind.
function sourcePath(clip, isAbsolute) {
  if (!isAbsolute) return report.prefix + clip.path;
  return !report.prefix && /^([a-z][a-z0-9+.-]+:\/\/|[a-z]:[\\/]|[\\/])/i.test(clip.path) ? clip.path : report.base + clip.path;
}
