// The page: controls, files, microphone, playback and results.

import { decode, Microphone } from "./audio.js";
import { BarChart } from "./bars.js";
import { save, toAudacity, toCSV } from "./exports.js";
import { FileList } from "./files.js";
import { Model } from "./model.js";
import { Spectrogram } from "./spectrogram.js";
import { Stream } from "./stream.js";
import { MAX_ROWS, Timeline } from "./timeline.js";

const MIN_LIVE_SECONDS = 0.1; // length of live audio from which it is classified
const SILENCE_LEVEL = 1e-3; // RMS of full scale below which no label is shown
const MAX_LISTED_LABELS = 12; // in the description

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const main = document.querySelector("main");
let model, barChart, spectrogram, timeline, fileList;
let microphone = null;
let animationFrame = 0; // of the playback cursors
let session = 0; // incremented with each new audio source, so that results of the previous one are discarded
let recordings = []; // the open files: name, blob, and of those that were classified the spans and results of their windows
let recording = null; // the one that is shown: with its samples, the first samples of its windows, and the shown window

start();

async function start() {
  try {
    model = await Model.load();
  } catch (error) {
    ui.description.textContent = "No model is loaded.";
    main.setAttribute("aria-busy", "false");
    showError(location.protocol === "file:"
      ? "Browsers do not load models from file://. Serve this folder with a web server, such as python -m http.server."
      : `The model cannot be loaded: ${error.message}`);
    return;
  }
  ui.description.textContent = describe(model);
  ui.results.textContent = describeResults(model.results);
  barChart = new BarChart(ui.bars, model.labels, model.thresholds);
  spectrogram = new Spectrogram(ui.spectrogram, model.center_frequencies);
  timeline = new Timeline(ui.timeline, model.labels);
  fileList = new FileList(ui["rows-of-files"], (index) => showRecording(index, ++session));
  spectrogram.span = model.window_seconds;
  spectrogram.draw();
  addExamples(model.examples);
  addListeners();
  ui.microphone.disabled = ui.open.disabled = false;
  main.setAttribute("aria-busy", "false");
}

function describe({ name, labels, sample_rate, window_seconds }) {
  const listed = labels.slice(0, MAX_LISTED_LABELS).join(", ") + (labels.length > MAX_LISTED_LABELS ? ", …" : "");
  return `${name}: ${labels.length} classes (${listed}), windows of ${+window_seconds.toFixed(2)}\u00a0s, ${sample_rate / 1000}\u00a0kHz.`;
}

/** The metrics of the run that has trained the model; nothing if there are none. */
function describeResults(results) {
  if (!results) return "";
  const percent = (fraction) => (100 * fraction).toFixed(1);
  const metrics = results.metrics.map(({ title, value, interval }) => {
    return `${title} ${percent(value)}\u00a0%${interval ? ` (${interval.map(percent).join(" to ")})` : ""}`;
  });
  return `On ${results.split}: ${metrics.join(", ")}, with 95\u00a0% intervals.`;
}

function addExamples(examples) {
  ui.examples.hidden = !examples.length;
  for (const { file, label } of examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    const name = `Example of “${label}”`;
    button.addEventListener("click", () => openFiles([{ name, blob: fetch(file).then((response) => response.blob()) }]));
    ui.examples.append(button);
  }
}

function addListeners() {
  ui.microphone.addEventListener("click", () => (microphone ? stopMicrophone() : startMicrophone()));
  ui.open.addEventListener("click", () => {
    ui.file.value = ""; // otherwise choosing the same file again would not be a change
    ui.file.click();
  });
  ui.file.addEventListener("change", () => openFiles([...ui.file.files].map((file) => ({ name: file.name, blob: file }))));
  ui.csv.addEventListener("click", () => save(toCSV(recordings.filter(({ results }) => results), model), "probabilities.csv"));
  ui.audacity.addEventListener("click", () => save(toAudacity(recording, model), `${recording.name.replace(/\.[^.]*$/, "")}.txt`));
  ui.attention.addEventListener("change", () => {
    spectrogram.showAttention = ui.attention.checked;
    spectrogram.draw();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.repeat || event.target.closest("button, input, audio")) return;
    event.preventDefault();
    ui.microphone.click();
  });
  addDropListeners();
  for (const event of ["play", "seeked"]) ui.audio.addEventListener(event, followPlayback);
  ui.spectrogram.addEventListener("click", ({ offsetX }) => recording && seek(spectrogram.start + spectrogram.timeAt(offsetX)));
  ui.timeline.addEventListener("click", ({ offsetX }) => recording && seek(timeline.timeAt(offsetX)));
}

function addDropListeners() {
  const setDragging = (dragging) => document.body.classList.toggle("dragging", dragging);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    setDragging(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || setDragging(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    setDragging(false);
    const files = [...event.dataTransfer.files].map((file) => ({ name: file.name, blob: file }));
    if (files.length) openFiles(files); else showError("Only audio files can be dropped here.");
  });
}

/** Shows the first of some files, and classifies all of them: `name` and `blob`, a Blob or a promise of one. */
async function openFiles(files) {
  if (!files.length) return;
  await stopMicrophone();
  const own = ++session;
  recordings = files;
  ui.files.hidden = files.length === 1;
  fileList.reset(files.map(({ name }) => name));
  await showRecording(0, own);
  for (let index = 1; index < files.length && recordings === files; index++) await classify(files[index], index);
}

/** Shows a file, with a timeline if it is longer than a window, and classifies it if it has not been. */
async function showRecording(index, own) {
  const opened = recordings[index];
  showError("");
  main.setAttribute("aria-busy", "true");
  fileList.mark(index);
  try {
    const blob = await opened.blob, samples = await decode(await blob.arrayBuffer(), model.sample_rate);
    if (own === session) await showSamples(opened, samples, blob, own, index);
  } catch (error) {
    reportFailure(opened, index, error);
    if (own === session) showError(`${opened.name}: ${error.message}.`);
  }
  if (own === session) main.setAttribute("aria-busy", "false");
}

async function showSamples(opened, samples, blob, own, index) {
  const seconds = samples.length / model.sample_rate, starts = model.windowStarts(samples.length);
  recording = Object.assign(opened, { starts, shownWindow: null, samples });
  URL.revokeObjectURL(ui.audio.src);
  ui.audio.src = URL.createObjectURL(blob);
  ui.player.hidden = false;
  ui.source.textContent = `${opened.name}, ${seconds.toFixed(2)} s`;
  ui.recording.hidden = starts.length === 1;
  ui.rows.textContent = model.labels.length > MAX_ROWS
    ? `The ${MAX_ROWS} of ${model.labels.length} classes with the highest maximum probability.` : "";
  spectrogram.cursor = timeline.cursor = 0;
  await showWindow(0, own);
  timeline.reset(model.windowSpans(starts, samples.length), seconds);
  const show = (probabilities, isLast) => {
    if (own !== session || starts.length === 1) return;
    timeline.append(probabilities);
    if (isLast) timeline.draw();
  };
  if (opened.results) opened.results.forEach((probabilities, at) => show(probabilities, at === starts.length - 1));
  else await classifyWindows(opened, samples, index, show);
  for (const other of recordings) if (other !== recording) delete other.samples; // so that memory does not grow
}

/** Classifies a file that is not shown. */
async function classify(opened, index) {
  if (opened.results) return;
  try {
    const blob = await opened.blob, samples = await decode(await blob.arrayBuffer(), model.sample_rate);
    await classifyWindows(opened, samples, index, () => {});
  } catch (error) {
    reportFailure(opened, index, error);
  }
}

/** Classifies the windows of a recording, which become its `results`; `show` is called with those of each window. */
async function classifyWindows(opened, samples, index, show) {
  const starts = model.windowStarts(samples.length), files = recordings, results = [];
  for (const [number, first] of starts.entries()) {
    const { probabilities } = await model.run(samples.slice(first, first + model.window));
    if (recordings !== files) return; // others were opened
    results.push(probabilities);
    show(probabilities, number % 16 === 0 || number === starts.length - 1);
  }
  const { label, probability } = model.verdict(model.combine(results));
  const seconds = samples.length / model.sample_rate;
  Object.assign(opened, { results, spans: model.windowSpans(starts, samples.length) });
  fileList.update(index, [`${seconds.toFixed(2)} s`, label, `${(100 * probability).toFixed(1)} %`]);
}

function reportFailure(opened, index, error) {
  if (recordings[index] === opened) fileList.update(index, ["", error.message], true);
}

/** Shows a window of the recording. */
async function showWindow(index, own) {
  if (recording.shownWindow === index) return;
  recording.shownWindow = index;
  const first = recording.starts[index];
  const result = await model.run(recording.samples.slice(first, first + model.window));
  if (own !== session || recording.shownWindow !== index) return;
  spectrogram.start = first / model.sample_rate;
  spectrogram.span = result.seconds;
  showResult(result, result.probabilities);
}

/** Moves the cursors with the playback, in a single loop however often it is called. */
function followPlayback() {
  cancelAnimationFrame(animationFrame);
  if (!recording) return;
  const time = ui.audio.currentTime;
  showWindow(nearestWindow(time), session);
  spectrogram.cursor = timeline.cursor = time;
  spectrogram.draw();
  timeline.draw();
  if (!ui.audio.paused) animationFrame = requestAnimationFrame(followPlayback);
}

/** Index of the window whose center is nearest to a time in s. */
function nearestWindow(time) {
  const { starts } = recording, distance = (first) => Math.abs(first + model.window / 2 - time * model.sample_rate);
  return starts.reduce((best, first, index) => (distance(first) < distance(starts[best]) ? index : best), 0);
}

function seek(time) {
  ui.audio.currentTime = Math.min(time, ui.audio.duration || time);
}

async function startMicrophone() {
  ui.microphone.disabled = true;
  const before = session; // the current audio stays until the browser grants access
  showError("");
  ui.audio.pause();
  let opened;
  try {
    opened = await Microphone.open(model.sample_rate, model.window_seconds, () => {
      stopMicrophone();
      showError("The microphone was disconnected.");
    });
  } catch (error) {
    showError(error.message);
    return;
  } finally {
    ui.microphone.disabled = false;
  }
  if (before !== session) return opened.close(); // a file was opened in the meantime
  const own = ++session;
  main.setAttribute("aria-busy", "false");
  microphone = opened;
  recording = null;
  ui.player.hidden = ui.recording.hidden = ui.files.hidden = true;
  recordings = [];
  ui.source.textContent = "Microphone";
  [spectrogram.start, spectrogram.span, spectrogram.cursor] = [0, model.window_seconds, null];
  updateMicrophoneButton();
  classifyLive(own);
}

/**
 * Classifies the latest window every `hop_seconds`, and shows the mean of the last results, like `spectrnn stream`. A
 * causal model takes only the new samples, if the browser records at its sample rate.
 */
async function classifyLive(own) {
  const history = [], stream = model.stream && microphone.take(model.sample_rate) ? new Stream(model) : null;
  while (microphone && own === session) {
    const began = performance.now(), samples = microphone.latest(model.sample_rate);
    if (samples.length >= MIN_LIVE_SECONDS * model.sample_rate) {
      let result;
      try {
        result = await (stream ? stream.push(microphone.take(model.sample_rate)) : model.run(samples));
      } catch (error) {
        await stopMicrophone();
        return showError(`The model failed: ${error.message}.`);
      }
      if (own !== session) return;
      if (result) {
        history.push(result.probabilities);
        if (history.length > model.smoothing_windows) history.shift();
        const mean = result.probabilities.map((_, label) => history.reduce((sum, past) => sum + past[label], 0) / history.length);
        showResult(result, mean, { smooth: true, silent: rms(samples) < SILENCE_LEVEL });
      }
    }
    const remaining = 1000 * model.hop_seconds - (performance.now() - began); // ms
    await new Promise((resolve) => setTimeout(resolve, Math.max(10, remaining)));
  }
}

async function stopMicrophone() {
  if (!microphone) return;
  const closing = microphone;
  microphone = null;
  session++;
  updateMicrophoneButton();
  ui.source.textContent = "Microphone, last window";
  await closing.close();
}

function updateMicrophoneButton() {
  ui.microphone.textContent = microphone ? "Stop microphone" : "Start microphone";
  ui.microphone.setAttribute("aria-pressed", String(microphone !== null));
}

/** Shows a result of `Model.run` with (smoothed) probabilities: spectrogram, bars and label. */
function showResult(result, probabilities, { smooth = false, silent = false } = {}) {
  spectrogram.show(result, smooth);
  barChart.show(probabilities);
  ui.overlay.hidden = !result.attention;
  const { label: best, probability, confident } = model.verdict(probabilities), label = silent ? "…" : best;
  if (ui.label.textContent !== label) ui.label.textContent = label; // screen readers announce each assignment
  ui.label.classList.toggle("uncertain", silent || !confident);
  ui.confidence.textContent = silent ? "" : `${(100 * probability).toFixed(1)} %${confident ? "" : ", uncertain"}`;
}

function rms(samples) {
  return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
}

function showError(message) {
  ui.error.textContent = message;
}
