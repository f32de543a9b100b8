"use strict";
// Shared helpers and the header. Labels, paths and groups are not trusted: they become text, never markup.
const report = JSON.parse(document.getElementById("report").textContent);
const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function svgElement(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const fixed = (number, digits) => number.toFixed(digits).replace("-", "−");
// Only an exact 1 is shown as 100 %.
const percent = (fraction, digits = 1) => {
  const text = (100 * fraction).toFixed(digits);
  return fraction < 1 && Number(text) === 100 ? percent(fraction, digits + 1) : `${text}\u00a0%`;
};
const formatCount = (number) => number.toLocaleString("en");
const clips = (number) => `${formatCount(number)} ${number === 1 ? "clip" : "clips"}`;
const range = (low, high) => (low === high ? low : `${low} to ${high}`);

function renderHeader() {
  const { count, correct } = report;
  const [accuracy, low, high] = report.accuracy;
  byId("subject").textContent = `${report.model} on ${report.split === "all" ? "all clips" : `the ${report.split} split`}`;
  byId("claim").textContent = `Accuracy ${percent(accuracy)} (${clips(count)})`;
  byId("lead").textContent = `${correct === count ? "No clip is" : `${clips(count - correct)} ${count - correct === 1 ? "is" : "are"}`} misclassified. `
    + (report.is_held_out
      ? `The 95 % confidence interval of the accuracy on clips of the same kind is ${percent(low)} to ${percent(high)}.`
      : "The model was trained on some of these clips, so the accuracy on new clips is likely to be lower.");
  for (const note of report.notes) byId("notes").append(element("li", {}, note));
  for (const { title, higher_is_better, is_fraction, value, interval } of report.metrics) {
    const format = is_fraction ? percent : (number) => number.toFixed(3);
    const text = interval ? `${format(interval[0]).replace(/\s%/, "")} to ${format(interval[1])}` : "";
    byId("headline").append(element("div", { title: higher_is_better ? "Higher is better" : "Lower is better" },
      element("dt", {}, title), element("dd", {}, format(value), element("small", {}, text))));
  }
  byId("imprint").textContent = `spectrnn ${report.version}. ${report.stages.join(" → ")}, ${formatCount(report.parameters)} parameters.`
    + ` Intervals in the header are bootstrap intervals, those of the tables Wilson intervals (95 %). Clips are in ${report.folder || "several folders"}.`;
}
