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

const fixed = (number, digits) => number.toFixed(digits).replace("-", "−");
// Only an exact 1 is shown as 100 %.
const percent = (fraction, digits = 1) => {
  const text = (100 * fraction).toFixed(digits);
  return fraction < 1 && Number(text) === 100 ? percent(fraction, digits + 1) : `${text}\u00a0%`;
};
const formatCount = (number) => number.toLocaleString("en");
const clips = (number) => `${formatCount(number)} ${number === 1 ? "clip" : "clips"}`;
const range = (low, high) => (low === high ? low : `${low} to ${high}`);
