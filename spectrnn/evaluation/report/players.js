// A clip's spectrogram and player, and the keys that move among clips and within one.

const ZOOM_SECONDS = 2;  // a shorter clip is not enlarged; the largest zoom shows this much
const SEEK = 0.02;  // of the visible part, or a tenth of a second if that is more

function spectrogramView(clip, media) {
  const image = element("img", { src: media.spectrogram, alt: `Spectrogram of ${clip.name}`, draggable: "false" });
  const overlay = svgElement("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  (media.attention ?? []).forEach((line, head) => {
    const points = line.map((weight, index) => `${(100 * (index + 0.5)) / line.length},${97 - 0.94 * weight}`);
    for (const kind of ["halo", `head-${(head % 4) + 1}`]) overlay.append(svgElement("polyline", { class: kind, points: points.join(" ") }));
  });
  const hertz = element("div", { class: "hertz", "aria-hidden": "true" });
  for (const [height, text] of hertzTicks()) {
    const tick = element("span", {}, text);
    tick.style.bottom = `${100 * height}%`;
    hertz.append(tick);
  }
  const seconds = element("div", { class: "seconds", "aria-hidden": "true" });
  const sheet = element("div", { class: "sheet" },
    element("div", { class: "spectrogram" }, image, overlay, element("div", { class: "playhead" })), seconds);
  const view = element("div", { class: "view" }, sheet);
  drawSeconds(seconds, clip, 1);
  return element("div", { class: "player" }, hertz, view);
}

function drawSeconds(row, clip, zoom) {
  const digits = clip.seconds / zoom < 10 ? 2 : 1;
  row.replaceChildren(...Array.from({ length: 2 * zoom + 1 }, (_, index) => {
    const position = index / (2 * zoom);
    const tick = element("span", {}, position ? `${(position * clip.seconds).toFixed(digits)}${position === 1 ? " s" : ""}` : "0");
    tick.style.left = `${100 * position}%`;
    return tick;
  }));
}

// Positions of round frequencies among the center frequencies: [fraction of the height, text].
function hertzTicks() {
  const centers = report.frequencies;
  const ticks = [];
  for (const hertz of [100, 250, 500, 1000, 2000, 4000, 8000, 16000]) {
    const above = centers.findIndex((center) => center >= hertz);
    if (above < 1) continue;
    const between = (hertz - centers[above - 1]) / (centers[above] - centers[above - 1]);
    const height = (above - 0.5 + between) / centers.length;
    if (!ticks.length || height - ticks.at(-1)[0] > 0.12) ticks.push([height, hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`]);
  }
  return ticks;
}

let playing = null;  // one clip at a time

function player(item, clip, source) {
  const icon = (kind, d) => svgElement("svg", { class: kind, viewBox: "0 0 10 10", "aria-hidden": "true" }, svgElement("path", { d }));
  const play = element("button", { type: "button", class: "play", "aria-label": `Play ${clip.name}` }, icon("start", "M2 0L10 5L2 10Z"), icon("pause", "M1 0H4V10H1ZM6 0H9V10H6Z"));
  const audio = element("audio", { src: source, preload: "none" });
  const playhead = item.querySelector(".playhead"), spectrogram = item.querySelector(".spectrogram"), view = item.querySelector(".view");
  let zoom = 1;
  let wanted = 0;  // where a clip that has not been loaded will start
  const place = (time) => {
    playhead.style.left = `${(100 * time) / clip.seconds}%`;
    const at = (spectrogram.clientWidth * time) / clip.seconds - view.scrollLeft;
    if (zoom > 1 && (at < 0 || at > view.clientWidth)) view.scrollLeft += at - 0.1 * view.clientWidth;
  };
  const follow = () => {
    place(audio.currentTime);
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => { item.classList.add("playing", "placed"); follow(); });
  audio.addEventListener("pause", () => item.classList.remove("playing"));
  audio.addEventListener("loadedmetadata", () => { if (wanted) audio.currentTime = wanted; });
  const start = () => {
    if (playing && playing !== audio) playing.pause();
    playing = audio;
    audio.play().catch((error) => { play.title = String(error); });
  };
  const seek = (time) => {
    wanted = Math.max(0, Math.min(clip.seconds, time));
    audio.currentTime = wanted;
    item.classList.add("placed");
    place(wanted);
  };
  play.addEventListener("click", () => (audio.paused ? start() : audio.pause()));
  spectrogram.addEventListener("click", (event) => {
    const frame = spectrogram.getBoundingClientRect();
    seek(((event.clientX - frame.left) / frame.width) * clip.seconds);
    start();
  });
  item.seekBy = (direction) => seek((audio.currentTime || wanted) + direction * Math.max(0.1, (SEEK * clip.seconds) / zoom));
  item.append(audio);
  if (clip.seconds < 2 * ZOOM_SECONDS) return [play];
  const largest = 2 ** Math.ceil(Math.log2(clip.seconds / ZOOM_SECONDS));
  const sheet = item.querySelector(".sheet");
  item.zoomBy = (factor) => {
    const center = (view.scrollLeft + view.clientWidth / 2) / zoom;
    zoom = Math.max(1, Math.min(largest, zoom * factor));
    sheet.style.width = `${100 * zoom}%`;
    drawSeconds(item.querySelector(".seconds"), clip, zoom);
    view.scrollLeft = center * zoom - view.clientWidth / 2;
    if (zoom > 1) view.tabIndex = 0;
    else view.removeAttribute("tabindex");
    smaller.disabled = zoom === 1;
    larger.disabled = zoom === largest;
  };
  view.setAttribute("role", "group");
  view.setAttribute("aria-label", "Spectrogram");
  const smaller = button("−", () => item.zoomBy(0.5), { "aria-label": "Zoom out", disabled: "" });
  const larger = button("+", () => item.zoomBy(2), { "aria-label": "Zoom in" });
  return [play, element("div", { class: "zoom" }, smaller, larger)];
}

// The keys of a card: true if it has one for an event.
function useCardKey(item, event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], factor = { "+": 2, "=": 2, "-": 0.5 }[event.key];
  if (event.target === item && (event.key === " " || event.key === "Enter")) item.querySelector(".play")?.click();
  else if (step && item.seekBy) item.seekBy(step);
  else if (factor && item.zoomBy) item.zoomBy(factor);
  else return false;
  return true;
}
