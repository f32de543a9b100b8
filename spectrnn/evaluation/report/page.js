"use strict";
// What the page is about. Labels, paths and groups come from strangers: they become text, and never markup.
const report = JSON.parse(document.getElementById("report").textContent);
const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const fixed = (number, digits) => number.toFixed(digits).replace("-", "−");
// Only what is whole is written as 100 %.
const percent = (share, digits = 1) => {
  const text = (100 * share).toFixed(digits);
  return share < 1 && Number(text) === 100 ? percent(share, digits + 1) : `${text}\u00a0%`;
};
const counted = (number) => number.toLocaleString("en");
const clips = (number) => `${counted(number)} ${number === 1 ? "clip" : "clips"}`;
const span = (low, high) => (low === high ? low : `${low} to ${high}`);

const METRICS = {
  accuracy: "accuracy", balanced_accuracy: "balanced accuracy", macro_f1: "macro F1", top_3: "among the top 3",
  loss: "loss, nats", ece: "calibration error",
};

function tellHeadline() {
  const { count, right, headline } = report;
  const [accuracy, low, high] = headline.accuracy;
  byId("subject").textContent = `${report.model} on ${report.split === "all" ? "all clips" : `the ${report.split} split`}`;
  byId("claim").textContent = `${percent(accuracy)} of ${clips(count)} right`;
  byId("lead").textContent = `${right === count ? "No clip is" : `${clips(count - right)} ${count - right === 1 ? "is" : "are"}`} taken`
    + " for something else. " + (report.fresh
      ? `With other clips of the same kind, ${percent(low)} to ${percent(high)} would be right, at 95 % confidence.`
      : "The model was trained on clips among them: this says little of new ones.");
  for (const note of report.notes) byId("notes").append(element("li", {}, note));
  for (const [name, [value, least, most]] of Object.entries(headline)) {
    const written = name === "loss" ? (number) => number.toFixed(3) : percent;
    const interval = least === undefined ? "" : `${written(least).replace(/\s%/, "")} to ${written(most)}`;
    byId("headline").append(element("div", {}, element("dt", {}, METRICS[name]),
      element("dd", {}, written(value), element("small", {}, interval))));
  }
  byId("imprint").textContent = `spectrnn ${report.version}. ${report.stages.join(" → ")}, ${counted(report.parameters)} parameters.`
    + ` Intervals of the headline are bootstrapped, those of shares are Wilson’s. Clips are in ${report.folder || "several folders"}.`;
}
