// The page: what is pressed, dropped and played, and who is told.

import { decode, Microphone } from "./audio.js";
import { Bars } from "./bars.js";
import { Model } from "./model.js";
import { Spectrogram } from "./spectrogram.js";
import { MOST, Timeline } from "./timeline.js";

const LEAST_HEARD = 0.1; // s of live sound before the model is asked
const QUIET = 1e-3; // of full scale: below this level nothing is named

const on = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const main = document.querySelector("main");
let model, bars, spectrogram, timeline;
let microphone = null;
let frame = 0; // of the cursors' loop
let turn = 0; // counts what is listened to, so that what is left behind falls silent
let shown = null; // the recording: its samples, the windows' first samples, and the window that is seen

start();

async function start() {
  try {
    model = await Model.load();
  } catch (error) {
    on.about.textContent = "There is no model to listen with.";
    main.setAttribute("aria-busy", "false");
    const local = location.protocol === "file:";
    return tell(local ? "A browser loads no model from file://: put this folder on a web server."
      : `The model cannot be loaded: ${error.message}`);
  }
  on.about.textContent = description(model);
  bars = new Bars(on.bars, model.labels, model.thresholds);
  spectrogram = new Spectrogram(on.spectrogram, model.centres);
  timeline = new Timeline(on.timeline, model.labels);
  spectrogram.span = model.window_seconds;
  spectrogram.draw();
  offer(model.examples);
  wire();
  on.listen.disabled = on.choose.disabled = false;
  main.setAttribute("aria-busy", "false");
}

function description({ labels, sample_rate, window_seconds }) {
  const few = labels.slice(0, 12).join(", ") + (labels.length > 12 ? ", …" : "");
  return `The model tells ${labels.length} sounds apart (${few}), ${+window_seconds.toFixed(2)} s at a time, at ${sample_rate / 1000} kHz.`;
}

function offer(examples) {
  on.examples.hidden = !examples.length;
  if (examples.length) on.examples.append("Examples");
  for (const { file, label } of examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => open(fetch(file).then((answer) => answer.blob()), `example of “${label}”`));
    on.examples.append(button);
  }
}

function wire() {
  on.listen.addEventListener("click", () => (microphone ? stop() : listen()));
  on.choose.addEventListener("click", () => {
    on.file.value = ""; // or the same file, chosen again, would be no change
    on.file.click();
  });
  on.file.addEventListener("change", () => on.file.files[0] && open(on.file.files[0], on.file.files[0].name));
  on.attention.addEventListener("change", () => {
    spectrogram.overlay = on.attention.checked;
    spectrogram.draw();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.repeat || event.target.closest("button, input, audio")) return;
    event.preventDefault();
    on.listen.click();
  });
  wireDrops();
  for (const event of ["play", "seeked"]) on.audio.addEventListener(event, follow);
  on.spectrogram.addEventListener("click", ({ offsetX }) => shown && seek(spectrogram.start + spectrogram.time(offsetX)));
  on.timeline.addEventListener("click", ({ offsetX }) => shown && seek(timeline.time(offsetX)));
}

function wireDrops() {
  const dragging = (is) => document.body.classList.toggle("dragging", is);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    dragging(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || dragging(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    dragging(false);
    const file = event.dataTransfer.files[0];
    if (file) open(file, file.name); else tell("That is no file.");
  });
}

/** Listens to a file's sound: a Blob, or the promise of one. */
async function open(promised, name) {
  await stop();
  const own = ++turn;
  tell("");
  main.setAttribute("aria-busy", "true");
  try {
    const file = await promised, samples = await decode(await file.arrayBuffer(), model.sample_rate);
    if (own === turn) await listenTo(samples, file, name, own);
  } catch (error) {
    if (own === turn) tell(`${name}: ${error.message}.`);
  }
  if (own === turn) main.setAttribute("aria-busy", "false");
}

async function listenTo(samples, file, name, own) {
  const seconds = samples.length / model.sample_rate, starts = model.starts(samples.length);
  shown = { samples, starts, at: null };
  URL.revokeObjectURL(on.audio.src);
  on.audio.src = URL.createObjectURL(file);
  on.player.hidden = false;
  on.of.textContent = `${name}, ${seconds.toFixed(2)} s`;
  on.course.hidden = starts.length === 1;
  on.rows.textContent = model.labels.length > MOST ? `the ${MOST} classes that are most probable anywhere, of ${model.labels.length}` : "";
  spectrogram.cursor = timeline.cursor = 0;
  await show(0, own);
  if (starts.length === 1) return;
  timeline.begin(starts.map((start) => start / model.sample_rate), model.window_seconds, seconds);
  for (const [at, start] of starts.entries()) {
    const { probabilities } = await model.run(samples.slice(start, start + model.window));
    if (own !== turn) return;
    timeline.add(probabilities);
    if (at % 16 === 0 || at === starts.length - 1) timeline.draw();
  }
}

/** Shows a window of the recording. */
async function show(at, own) {
  if (shown.at === at) return;
  shown.at = at;
  const start = shown.starts[at];
  const heard = await model.run(shown.samples.slice(start, start + model.window));
  if (own !== turn || shown.at !== at) return;
  spectrogram.start = start / model.sample_rate;
  spectrogram.span = heard.seconds;
  present(heard, heard.probabilities, false);
}

/** The cursors go with the player, in one loop however often it is called. */
function follow() {
  cancelAnimationFrame(frame);
  if (!shown) return;
  const time = on.audio.currentTime, own = turn;
  const middle = time * model.sample_rate - model.window / 2;
  const at = shown.starts.reduce((best, start, index) =>
    (Math.abs(start - middle) < Math.abs(shown.starts[best] - middle) ? index : best), 0);
  show(at, own);
  spectrogram.cursor = timeline.cursor = time;
  spectrogram.draw();
  timeline.draw();
  if (!on.audio.paused) frame = requestAnimationFrame(follow);
}

function seek(time) {
  on.audio.currentTime = Math.min(time, on.audio.duration || time);
}

async function listen() {
  on.listen.disabled = true;
  const before = turn; // what is listened to goes on until there is a microphone
  tell("");
  on.audio.pause();
  let opened;
  try {
    opened = await Microphone.open(model.sample_rate, model.window_seconds, () => {
      stop();
      tell("The microphone was taken away.");
    });
  } catch (error) {
    on.listen.disabled = false;
    return tell(error.message);
  }
  on.listen.disabled = false;
  if (before !== turn) return opened.close(); // while the browser asked, a file was opened
  const own = ++turn;
  main.setAttribute("aria-busy", "false");
  microphone = opened;
  shown = null;
  on.player.hidden = on.course.hidden = true;
  on.of.textContent = "the microphone, now";
  [spectrogram.start, spectrogram.span, spectrogram.cursor] = [0, model.window_seconds, null];
  listening(true);
  live(own);
}

/** Asks the model again and again, and shows the mean of what it said last, as `stream` does. */
async function live(own) {
  const said = [];
  while (microphone && own === turn) {
    const began = performance.now(), samples = microphone.latest(model.sample_rate);
    if (samples.length >= LEAST_HEARD * model.sample_rate) {
      let heard;
      try {
        heard = await model.run(samples);
      } catch (error) {
        await stop();
        return tell(`The model failed: ${error.message}.`);
      }
      if (own !== turn) return;
      said.push(heard.probabilities);
      if (said.length > model.smoothing_windows) said.shift();
      const mean = heard.probabilities.map((_, label) => said.reduce((sum, one) => sum + one[label], 0) / said.length);
      present(heard, mean, true, level(samples) < QUIET);
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(10, 1000 * model.hop_seconds - (performance.now() - began))));
  }
}

async function stop() {
  if (!microphone) return;
  const closing = microphone;
  microphone = null;
  turn++;
  listening(false);
  on.of.textContent = "the microphone, as it was heard last";
  await closing.close();
}

function listening(is) {
  on.listen.textContent = is ? "Stop" : "Listen";
  on.listen.setAttribute("aria-pressed", String(is));
}

/** Shows a window: its picture, the probabilities, and the class that is heard. */
function present(heard, probabilities, steady, quiet = false) {
  spectrogram.show(heard, steady);
  bars.show(probabilities);
  on.overlay.hidden = !heard.attention;
  const best = probabilities.indexOf(Math.max(...probabilities));
  const sure = probabilities[best] >= (model.thresholds ? model.thresholds[best] ?? Infinity : 0.5);
  const text = quiet ? "…" : model.labels[best];
  if (on.label.textContent !== text) on.label.textContent = text; // or a screen reader would say it again
  on.label.classList.toggle("unsure", quiet || !sure);
  on.sure.textContent = quiet ? "" : `${(100 * probabilities[best]).toFixed(1)} %${sure ? "" : ", not sure"}`;
}

function level(samples) {
  return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
}

function tell(sentence) {
  on.problem.textContent = sentence;
}
