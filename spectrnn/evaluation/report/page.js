"use strict";
// Helpers of all pages. Labels, paths and groups are not trusted: they become text, never markup.
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

function button(text, open, attributes = {}) {
  const node = element("button", { type: "button", ...attributes }, text);
  node.addEventListener("click", open);
  return node;
}

const fixed = (number, digits) => number.toFixed(digits).replace("-", "−");
// Only an exact 1 is shown as 100 %.
const percent = (fraction, digits = 1) => {
  const text = (100 * fraction).toFixed(digits);
  return fraction < 1 - 1e-9 && Number(text) === 100 ? percent(fraction, digits + 1) : `${text}\u00a0%`;
};
const formatCount = (number) => number.toLocaleString("en");
const clips = (number) => `${formatCount(number)} ${number === 1 ? "clip" : "clips"}`;
const capitalized = (text) => text[0].toUpperCase() + text.slice(1);
const range = (low, high) => (low === high ? low : `${low} to ${high}`);
// A clip's path and, if it is a part of a recording, its start and end in s.
const describeSource = ({ path, start, end }) => (start || end !== null ? `${path} [${start} to ${end ?? "end"} s]` : path);

// Saves rows of cells as a CSV file, without a request.
function saveCsv(name, rows) {
  const quote = (cell) => (/[",\r\n]|^\s|\s$/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
  const file = new Blob(rows.map((row) => `${row.map(quote).join(",")}\n`), { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(file), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const NOTHING = "(nothing)";  // in place of classes, with several labels per clip

// Whether a clip counts in a cell of the confusion matrix.
function isInCell({ actual, predicted }, row, column) {
  if (row === column) return row === NOTHING ? !actual.length && !predicted.length : actual.includes(row) && predicted.includes(row);
  const isAmong = (label, labels, others) => (label === NOTHING ? labels.every((own) => others.includes(own)) : labels.includes(label) && !others.includes(label));
  return isAmong(row, actual, predicted) && isAmong(column, predicted, actual);
}

// Whether a clip is of a true and a predicted class, or in their cell of the confusion matrix; "" is any class.
function isWanted(clip, actual, predicted) {
  const has = (labels, wanted) => !wanted || (wanted === NOTHING ? !labels.length : labels.includes(wanted));
  return actual && predicted ? isInCell(clip, actual, predicted) : has(clip.actual, actual) && has(clip.predicted, predicted);
}
