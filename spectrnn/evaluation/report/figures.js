// Plots: curves, the reliability diagram, and accuracy by length, level and group.

// An empty plot of two axes { ticks, format }, the horizontal one with a title: { plot, x, y }, where x and y convert values to coordinates.
function plotFrame(label, horizontal, vertical, width = 366, height = 210) {
  const [left, top] = [40, 10];
  const scale = ({ ticks }) => (value) => (value - ticks[0]) / (ticks.at(-1) - ticks[0] || 1);
  const x = (value) => left + width * scale(horizontal)(value);
  const y = (value) => top + height * (1 - scale(vertical)(value));
  const plot = svgElement("svg", { viewBox: `0 0 ${left + width + 18} ${top + height + 38}`, role: "img", "aria-label": label });
  for (const tick of vertical.ticks) {
    plot.append(svgElement("path", { class: "axis", d: `M${left} ${y(tick)}H${left + width}` }),
      svgElement("text", { x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, vertical.format(tick)));
  }
  for (const tick of horizontal.ticks) {
    plot.append(svgElement("text", { x: x(tick), y: top + height + 17, "text-anchor": "middle" }, horizontal.format(tick)));
  }
  plot.append(svgElement("text", { x: left + width / 2, y: top + height + 33, "text-anchor": "middle" }, horizontal.title));
  return { plot, x, y };
}

const FRACTIONS = { ticks: [0, 0.25, 0.5, 0.75, 1], format: (fraction) => String(100 * fraction) };

// Learning curves: a plot each for the metric and the loss, a color for each run, and a dot at the epoch that was kept.
function drawCurves(names) {
  byId("curves").hidden = !report.curves.length;
  const sample = (kind) => svgElement("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, svgElement("path", { class: `curve ${kind}`, d: "M1 4H23" }));
  const lines = report.curves.flatMap((curve) => curve.lines);
  if (names.length > 1) names.forEach((name, run) => byId("legend").append(element("li", {}, sample(`head-${run + 1}`), name)));
  else if (lines.some((line) => !line.train)) byId("legend").append(element("li", {}, sample("head-1"), "validation"));
  if (lines.some((line) => line.train)) byId("legend").append(element("li", {}, sample(`train ${names.length > 1 ? "ideal" : "head-1"}`), names.length > 1 ? "dashed: training" : "training"));
  const kept = new Set(lines.map((line) => line.kept).filter(Boolean));
  if (kept.size) {
    const dot = svgElement("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, svgElement("circle", { class: "kept head-1", cx: 12, cy: 4, r: 2.5 }));
    byId("legend").append(element("li", {}, dot, kept.size === 1 ? `epoch ${[...kept][0]}, whose model was kept` : "epoch whose model was kept"));
  }
  report.curves.forEach((curve) => byId("plots").append(drawCurve(curve, names)));
}

function drawCurve({ title, lines }, names) {
  const values = lines.flatMap((line) => line.points.map((point) => point[1]));
  const ticks = niceTicks(Math.min(...values), Math.max(...values));
  const step = ticks[1] - ticks[0];
  const digits = [0, 1, 2, 3, 4, 5].find((count) => Math.abs(step * 10 ** count - Math.round(step * 10 ** count)) < 1e-6) ?? 6;
  const last = Math.max(2, ...lines.map((line) => line.points.at(-1)[0]));
  const every = Math.ceil((last - 1) / 8);
  const epochs = Array.from({ length: Math.floor((last - 1) / every) + 1 }, (_, index) => 1 + index * every);
  const { plot, x, y } = plotFrame(title, { ticks: [...new Set([...epochs, last])], title: "epoch", format: (epoch) => (epochs.includes(epoch) ? String(epoch) : "") },
    { ticks, format: (tick) => fixed(tick, digits) });
  for (const { run, train, points, kept } of lines) {
    const color = `head-${run + 1}`;
    const [epoch, value] = points.at(-1);
    plot.append(svgElement("polyline", { class: `curve ${color}${train ? " train" : ""}`, points: points.map(([at, height]) => `${x(at)},${y(height)}`).join(" ") },
      svgElement("title", {}, `${names[run] ? `${names[run]}: ` : ""}${train ? "training" : title} ${value} after epoch ${epoch}`)));
    if (points.length === 1 && kept === null) plot.append(svgElement("circle", { class: `curve ${color}`, cx: x(epoch), cy: y(value), r: 3 }));
    const dot = points.find((point) => point[0] === kept);
    if (dot) {
      plot.append(svgElement("circle", { class: `kept ${color}`, cx: x(dot[0]), cy: y(dot[1]), r: 4.5 },
        svgElement("title", {}, `kept: epoch ${kept}, ${train ? "training" : title} ${dot[1]}`)));
    }
  }
  return element("figure", {}, element("figcaption", {}, title), plot);
}

// Round values that enclose a range, about five of them.
function niceTicks(low, high) {
  const raw = (high - low || Math.abs(high) || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const start = Math.floor(low / step + 1e-9);
  const end = Math.max(start + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: end - start + 1 }, (_, index) => (start + index) * step);
}

function drawReliability() {
  const [horizontal, vertical, of] = report.has_sets
    ? ["probability", "frequency", (count) => `${formatCount(count)} probabilities`] : ["confidence", "accuracy", clips];
  byId("reliability-caption").textContent = `${report.has_sets ? "How often classes with a probability occur, of all pairs of a clip and a class" : "Accuracy by confidence"}.`
    + ` On the diagonal the model is calibrated; below it, over-confident. Bars are 95\u00a0% confidence intervals, the strip counts ${report.has_sets ? "pairs" : "clips"}.`;
  const [left, top, width, strip] = [38, 8, 300, 52];
  const x = (fraction) => left + fraction * width;
  const y = (fraction) => top + (1 - fraction) * width;
  const bottom = top + width + strip + 14;
  const plot = svgElement("svg", { viewBox: `0 0 ${left + width + 12} ${bottom + 34}`, role: "img",
    "aria-label": `Reliability diagram: ${report.reliability.map(([from, to, mean, count, accuracy]) =>
      `${horizontal} ${percent(mean, 0)}, ${vertical} ${percent(accuracy, 0)} (${of(count)})`).join("; ")}` });
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    plot.append(svgElement("path", { class: "axis", d: `M${x(0)} ${y(tick)}H${x(1)}` }),
      svgElement("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(100 * tick)),
      svgElement("text", { x: x(tick), y: bottom + 14, "text-anchor": "middle" }, String(100 * tick)));
  }
  plot.append(svgElement("path", { class: "ideal", d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}` }),
    svgElement("path", { class: "axis", d: `M${x(0)} ${bottom}H${x(1)}` }),
    svgElement("text", { x: x(0.5), y: bottom + 29, "text-anchor": "middle" }, `${horizontal}, %`),
    svgElement("text", { x: x(0) + 6, y: y(1) + 14 }, `${vertical}, %`));
  const most = Math.max(...report.reliability.map((row) => row[3]));
  for (const [from, to, mean, count, accuracy, low, high] of report.reliability) {
    const height = Math.max(1.5, (strip * count) / most);
    plot.append(
      svgElement("rect", { class: "amount", x: x(from) + 1, width: x(to) - x(from) - 2, y: bottom - height, height }, svgElement("title", {}, of(count))),
      svgElement("path", { class: "interval-line", d: `M${x(mean)} ${y(low)}V${y(high)}` }),
      svgElement("circle", { class: "mark", cx: x(mean), cy: y(accuracy), r: 4 },
        svgElement("title", {}, `${horizontal} ${percent(mean)}, ${vertical} ${percent(accuracy)} (${of(count)})`)));
  }
  byId("reliability").append(plot);
}

function drawAccuracies() {
  const named = (digits) => ([low, high, ...rest]) => [range(fixed(low, digits), fixed(high, digits)), ...rest];
  const title = capitalized(report.fraction_correct);
  drawAccuracy("strata", `${title} by length`, "length, s", report.lengths.map(named(2)), "");
  drawAccuracy("strata", `${title} by level`, "RMS, dBFS", report.levels.map(named(1)), "");
  const left = report.group_count - report.groups.length;
  drawAccuracy("groups", `${title} by group`, "group", report.groups,
    left > 0 && report.groups.length ? `The ${report.groups.length} of ${report.group_count} groups with the lowest ${report.fraction_correct}.` : "");
}

function drawAccuracy(parent, title, unit, rows, caption) {
  if (!rows.length) return;
  const lowest = Math.min(...rows.map((row) => row[3]));
  const floor = Math.max(0, Math.floor(10 * lowest) / 10);  // start of the scale, which ends at 100 %
  const x = (fraction) => (100 * (fraction - floor)) / (1 - floor || 1);
  const body = element("tbody");
  for (const [name, count, accuracy, low, high] of rows) {
    const plot = svgElement("svg", { "aria-hidden": "true" },
      svgElement("line", { class: "axis", x1: "0%", x2: "100%", y1: "50%", y2: "50%" }),
      svgElement("line", { class: "interval-line", x1: `${x(low)}%`, x2: `${x(high)}%`, y1: "50%", y2: "50%" }),
      svgElement("circle", { class: "mark", cx: `${x(accuracy)}%`, cy: "50%", r: 3.5 }));
    const cell = element("td", { class: "interval", title: `95 % confidence interval: ${percent(low)} to ${percent(high)}` }, plot);
    body.append(element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "number" }, formatCount(count)),
      element("td", { class: "number" }, percent(accuracy)), cell));
  }
  const scale = element("div", { class: "scale" }, element("span", {}, percent(floor, 0)), element("span", {}, "100 %"));
  const head = [[unit, ""], ["clips", "number"], [report.fraction_correct, "number"]].map(([text, kind]) => element("th", { scope: "col", class: kind }, text));
  byId(parent).append(element("h2", {}, title), element("p", { class: "caption" }, caption), element("table", { class: "list" },
    element("thead", {}, element("tr", {}, ...head, element("th", { class: "interval" }, scale))), body));
}
