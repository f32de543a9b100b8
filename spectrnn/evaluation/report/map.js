// The map of the clips: their pooled vectors in a plane, colored by class or by error. A clip that is chosen is played.

const MAX_COLORS = 20;  // classes; the colors of more could not be distinguished
const SEVERAL = "(several)";  // in place of several labels of a clip
const REACH = 14;  // pixels between the pointer and a clip
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const places = (report.map?.points ?? []).map(([number, x, y]) => ({ clip: all[number], x, y, node: svgElement("circle") }));
const mapView = { classes: [], plot: null, ring: null, place: null, entry: null };  // the current place, and the chosen entry of the legend

const CORRECTNESS = [[report.has_sets ? "exact match" : "correct", "right"], ["error", "wrong"]];

function setUpMap() {
  byId("map-section").hidden = !places.length;
  if (!places.length) return;
  const { variance, size, points } = report.map;
  byId("map-caption").textContent = `The first two principal components of the pooled vectors, of ${formatCount(size)} values each, `
    + `with ${percent(variance[0])} and ${percent(variance[1])} of their variance.`
    + (points.length < all.length ? ` ${clips(points.length)} of ${formatCount(all.length)}, drawn at random.` : "")
    + " Errors have an outline. Select a clip to play it, or use the arrow keys and Enter.";
  const used = new Set(places.flatMap(({ clip }) => [...clip.actual, ...clip.predicted]));
  const classes = report.labels.filter((label) => used.has(label));
  const isFew = classes.length <= MAX_COLORS;
  byId("map-color").append(...(isFew ? [new Option("true class", "actual"), new Option("predicted class", "predicted")] : []),
    new Option(report.has_sets ? "exact match or error" : "correct or error", "error"));
  if (report.has_sets) byId("map-color").value = "error";
  for (const id of ["map-color", "map-class"]) byId(id).addEventListener("change", () => { mapView.entry = null; drawMap(); });
  byId("map-class").append(new Option("any", ""), ...(isFew ? [] : classes.map((label) => new Option(label, label))));
  byId("map-class").parentNode.hidden = isFew;
  mapView.classes = classes;
  placeClips();
  drawMap();
}

// Draws the clips with the same scale on both axes, and the keys and the pointer that choose among them.
function placeClips() {
  const [margin, width] = [12, Math.max(300, byId("map").clientWidth)];
  const [right, bottom] = ["x", "y"].map((axis) => Math.max(1, ...places.map((place) => place[axis])));
  const height = Math.round(width * Math.min(0.8, Math.max(0.5, bottom / right)));
  const scale = Math.min((width - 2 * margin) / right, (height - 2 * margin) / bottom);
  for (const place of places) {
    place.x = (width - scale * right) / 2 + scale * place.x;
    place.y = (height + scale * bottom) / 2 - scale * place.y;
    for (const [key, value] of [["cx", place.x.toFixed(1)], ["cy", place.y.toFixed(1)], ["r", places.length > 1500 ? 2.6 : 3.8]]) place.node.setAttribute(key, value);
  }
  mapView.ring = svgElement("circle", { class: "ring", r: 8, visibility: "hidden" });
  const plot = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: "0", role: "application", "aria-label": "Map of the clips. Arrow keys move, Enter plays." });
  plot.append(svgElement("g"), mapView.ring);
  const near = (event) => {
    const frame = plot.getBoundingClientRect();
    const zoom = width / frame.width;
    return nearest(([x, y]) => (Math.hypot(x, y) < REACH * zoom ? Math.hypot(x, y) : Infinity), (event.clientX - frame.left) * zoom, (event.clientY - frame.top) * zoom);
  };
  plot.addEventListener("pointermove", (event) => showPlace(near(event) ?? mapView.place));
  plot.addEventListener("click", (event) => choosePlace(near(event)));
  plot.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (step) showPlace(mapView.place ? nearest(inDirection(step), mapView.place.x, mapView.place.y) ?? mapView.place : places.find(isShown));
    else if (event.key === "Enter" || event.key === " ") choosePlace(mapView.place);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  mapView.plot = plot;
  byId("map").append(plot);
}

// The place of the smallest cost, a function of its distances to a point; undefined if all are infinite.
function nearest(cost, x, y) {
  let [best, least] = [undefined, Infinity];
  for (const place of places) {
    const value = isShown(place) ? cost([place.x - x, place.y - y]) : Infinity;
    if (value < least) [best, least] = [place, value];
  }
  return best;
}

const inDirection = ([right, down]) => ([x, y]) => {
  const along = x * right + y * down, across = Math.abs(x * down) + Math.abs(y * right);
  return along > 0 && across <= 2 * along ? along + 2 * across : Infinity;
};

function showPlace(place) {
  if (!place) return;
  const { clip, x, y } = place;
  mapView.place = place;
  for (const [key, value] of [["cx", x], ["cy", y], ["visibility", "visible"]]) mapView.ring.setAttribute(key, value);
  const text = `${describeLabels(clip.actual)}${clip.isCorrect ? "" : ` classified as ${describeLabels(clip.predicted)}`}, ${percent(clip.confidence)}: ${clip.name}`;
  if (byId("map-text").textContent !== text) byId("map-text").textContent = text;
}

function choosePlace(place) {
  if (!place) return;
  showPlace(place);
  const item = card(place.clip);
  byId("map-clip").replaceChildren(item);
  item.querySelector(".play")?.click();
}

// What a clip is colored by: [name, class of its color, hue in degrees, lightness from 0 to 1].
function mapEntries() {
  const count = mapView.classes.length;
  if (byId("map-color").value === "error") return CORRECTNESS;
  // Of many classes, those of similar hues differ in lightness.
  const colored = mapView.classes.map((label, index) => [label, "tone", 250 + (360 * index) / count, count > 6 ? index % 2 : 0]);
  return report.has_sets ? [...colored, [SEVERAL, "several"], [NOTHING, "nothing"]] : colored;
}

function entryOf(clip) {
  const color = byId("map-color").value;
  if (color === "error") return CORRECTNESS[Number(!clip.isCorrect)][0];
  return clip[color].length > 1 ? SEVERAL : clip[color][0] ?? NOTHING;
}

// Whether a clip is of the chosen class.
function isOfClass(clip) {
  const label = byId("map-class").value;
  return !label || clip.actual.includes(label) || clip.predicted.includes(label);
}

// Whether a clip is of the chosen class, and of the chosen entry of the legend.
function isShown({ clip }) {
  const color = byId("map-color").value, { entry } = mapView;
  return isOfClass(clip) && (entry === null || entryOf(clip) === entry || (color !== "error" && clip[color].includes(entry)));
}

function paint(node, [, kind, hue, light]) {
  node.classList.add(kind);
  if (kind !== "tone") return;
  node.style.setProperty("--hue", hue);
  node.style.setProperty("--light", light);
}

function drawMap() {
  if (!places.length) return;
  const entries = new Map(mapEntries().map((entry) => [entry[0], entry]));
  const counts = new Map([...entries.keys()].map((name) => [name, 0]));
  for (const { clip, node } of places) {
    const name = entryOf(clip);
    counts.set(name, counts.get(name) + Number(isOfClass(clip)));
    node.setAttribute("class", clip.isCorrect ? "place" : "place outlined");
    paint(node, entries.get(name));
  }
  const shown = places.filter(isShown);
  for (const place of places) place.node.classList.add("faded");
  for (const place of shown) place.node.classList.remove("faded");
  // Errors are drawn over the others, the clips that are shown over those that are not.
  const layer = (place) => 2 * Number(!place.node.classList.contains("faded")) + Number(!place.clip.isCorrect);
  mapView.plot.firstChild.replaceChildren(...[...places].sort((a, b) => layer(a) - layer(b)).map((place) => place.node));
  byId("map-legend").replaceChildren(...[...entries.values()].filter(([name]) => counts.get(name)).map((entry) => {
    const [name] = entry;
    const sample = svgElement("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, svgElement("circle", { class: "place", cx: 5, cy: 5, r: 4.5 }));
    paint(sample.firstChild, entry);
    const choose = button(name, () => {
      mapView.entry = mapView.entry === name ? null : name;
      drawMap();
      [...byId("map-legend").querySelectorAll("button")].find((own) => own.dataset.name === name)?.focus();
    }, { "aria-pressed": String(mapView.entry === name), "data-name": name, title: "show only these" });
    choose.prepend(sample);
    choose.append(element("small", {}, formatCount(counts.get(name))));
    return element("li", {}, choose);
  }));
  if (!mapView.place) byId("map-text").textContent = `${clips(shown.length)} shown.`;
}
