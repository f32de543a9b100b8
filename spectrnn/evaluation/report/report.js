// The header of a report, and what is drawn on its page.

function renderHeader() {
  const { count, correct, metrics: [main] } = report;
  const [fraction, low, high] = report.accuracy;
  byId("subject").textContent = `${report.model} on ${report.split === "all" ? "all clips" : `the ${report.split} split`}`;
  byId("claim").textContent = `${capitalized(main.title)} ${main.is_fraction ? percent(main.value) : main.value.toFixed(3)} (${clips(count)})`;
  const are = (number) => (number === 1 ? "is" : "are");
  const result = report.has_sets
    ? `${formatCount(correct)} of ${clips(count)} ${are(correct)} classified with exactly their classes (exact match ${percent(fraction)}). `
    : `${correct === count ? "No clip is" : `${clips(count - correct)} ${are(count - correct)}`} misclassified. `;
  byId("lead").textContent = result + (report.is_held_out
    ? `The 95 % confidence interval of the ${report.fraction_correct} on clips of the same kind is ${percent(low)} to ${percent(high)}.`
    : `The model was trained on some of these clips, so the ${report.fraction_correct} on new clips is likely to be lower.`);
  for (const note of report.notes) byId("notes").append(element("li", {}, note));
  for (const { title, higher_is_better, is_fraction, value, interval } of report.metrics) {
    const format = is_fraction ? percent : (number) => number.toFixed(3);
    const text = interval ? `${format(interval[0]).replace(/\s%/, "")} to ${format(interval[1])}` : "";
    byId("headline").append(element("div", { title: higher_is_better ? "Higher is better" : "Lower is better" },
      element("dt", {}, title), element("dd", {}, format(value), element("small", {}, text))));
  }
  byId("imprint").textContent = `spectrnn ${report.versions.spectrnn}. ${report.stages.join(" → ")}, ${formatCount(report.parameters)} parameters.`
    + ` Intervals in the header are bootstrap intervals, those of the tables Wilson intervals (95 %). Clips are in ${report.folder || "several folders"}.`;
}

// Learning curves, configuration and versions.
function renderTraining() {
  drawCurves([""]);
  byId("config").hidden = !report.config;
  byId("config").lastElementChild.textContent = report.config;
  const before = report.trained_with;
  const isSame = Object.entries(report.versions).every(([name, version]) => (before[name] ?? version) === version);
  const describe = (versions) => Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ");
  byId("versions").textContent = isSame ? `Versions: ${describe(report.versions)}.`
    : `Versions: evaluated with ${describe(report.versions)}; trained with ${describe(before)}.`;
}

renderHeader();
drawMatrix(openCell);
drawReliability();
drawClasses((label) => { setFilters({ true: label, show: "all" }); toClips(); });
drawConfusions(openPair);
drawAccuracies();
renderTraining();
renderClipsCaption();
decide();
setUpThresholds(decideAndShow);
setUpFilters();
setUpMarks();
setUpMap();
setFilters(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
setUpShortcuts(() => setFilters({}), SHORTCUTS, useMarkKey);
