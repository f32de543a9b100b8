// A clip's spectrogram and player, and the keys that move among clips.

function spectrogramView(clip, media) {
  const image = element("img", { src: media.spectrogram, alt: `Spectrogram of ${clip.path}`, draggable: "false" });
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
  for (const position of [0, 0.5, 1]) {
    const tick = element("span", {}, position ? `${(position * clip.seconds).toFixed(clip.seconds < 10 ? 2 : 1)}${position === 1 ? " s" : ""}` : "0");
    tick.style.left = `${100 * position}%`;
    seconds.append(tick);
  }
  return element("div", { class: "player" }, hertz, element("div", { class: "spectrogram" }, image, overlay, element("div", { class: "playhead" })), seconds);
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
  const button = element("button", { type: "button", class: "play", "aria-label": `Play ${clip.path}` }, icon("start", "M2 0L10 5L2 10Z"), icon("pause", "M1 0H4V10H1ZM6 0H9V10H6Z"));
  const audio = element("audio", { src: source, preload: "none" });
  const playhead = item.querySelector(".playhead");
  const follow = () => {
    playhead.style.left = `${(100 * audio.currentTime) / clip.seconds}%`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => { item.classList.add("playing"); follow(); });
  audio.addEventListener("pause", () => item.classList.remove("playing"));
  const play = () => {
    if (playing && playing !== audio) playing.pause();
    playing = audio;
    audio.play().catch((error) => { button.title = String(error); });
  };
  button.addEventListener("click", () => (audio.paused ? play() : audio.pause()));
  item.querySelector(".spectrogram").addEventListener("click", (event) => {
    const frame = event.currentTarget.getBoundingClientRect();
    audio.currentTime = ((event.clientX - frame.left) / frame.width) * clip.seconds;
    play();
  });
  item.append(audio);
  return button;
}

function moveInList(step) {
  const cards = [...byId("list").children];
  const at = cards.indexOf(document.activeElement.closest(".clip"));
  if (at + step >= cards.length && !byId("more").hidden) showMore(true);
  else cards[at < 0 ? 0 : Math.max(0, Math.min(cards.length - 1, at + step))]?.focus();
}
