// Heat map of the class probabilities over a recording: a row per class, time on the horizontal axis.

export const MAX_ROWS = 12;
const ROW_HEIGHT = 26, AXIS_HEIGHT = 24; // CSS pixels
const FONT = "13px system-ui, sans-serif";

export class Timeline {
  #canvas; #labels; #spans = []; #seconds = 0; #results = [];
  #labelWidth = null; #peaks = []; #shown = null; // computed once, as there may be thousands of classes
  cursor = 0; // playback position in s

  constructor(canvas, labels) {
    [this.#canvas, this.#labels] = [canvas, labels];
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Starts a recording: start and end of the part that each window stands for, and length of the recording, all in s. */
  reset(spans, seconds) {
    [this.#spans, this.#seconds, this.#results] = [spans, seconds, []];
    [this.#peaks, this.#shown] = [this.#labels.map(() => 0), null];
    this.#canvas.style.height = `${ROW_HEIGHT * Math.min(MAX_ROWS, this.#labels.length) + AXIS_HEIGHT}px`;
    this.draw();
  }

  /** Appends the probabilities (classes,) of the next window. */
  append(probabilities) {
    this.#results.push(probabilities);
    this.#peaks = this.#peaks.map((peak, label) => Math.max(peak, probabilities[label]));
    this.#shown = null;
  }

  /** Time in the recording in s at a horizontal position in pixels. */
  timeAt(x) {
    const { left, width } = this.#plotArea();
    return Math.min(1, Math.max(0, (x - left) / width)) * this.#seconds;
  }

  draw() {
    const { clientWidth, clientHeight } = this.#canvas, style = getComputedStyle(this.#canvas), scale = devicePixelRatio;
    [this.#canvas.width, this.#canvas.height] = [clientWidth * scale, clientHeight * scale];
    if (!this.#seconds) return;
    const context = this.#canvas.getContext("2d");
    context.scale(scale, scale);
    const { left, width } = this.#plotArea();
    context.textBaseline = "middle";
    this.#shownClasses().forEach((label, row) => {
      const top = ROW_HEIGHT * row + 3, height = ROW_HEIGHT - 6;
      context.fillStyle = style.color;
      context.fillText(ellipsize(context, this.#labels[label], left - 12), 0, ROW_HEIGHT * (row + 0.5));
      context.fillStyle = style.getPropertyValue("--track");
      context.fillRect(left, top, width, height);
      context.fillStyle = style.getPropertyValue("--bar");
      this.#results.forEach((probabilities, index) => {
        const [start, end] = this.#spans[index].map((time) => Math.round(left + width * time / this.#seconds));
        context.globalAlpha = probabilities[label];
        context.fillRect(start, top, end - start, height);
      });
      context.globalAlpha = 1;
    });
    this.#drawAxis(context, style.color, left, width);
  }

  /** Horizontal extent of the rows, to the right of the labels. */
  #plotArea() {
    const context = this.#canvas.getContext("2d");
    context.font = FONT;
    this.#labelWidth ??= Math.max(...this.#labels.map((label) => context.measureText(label).width));
    const left = Math.min(0.3 * this.#canvas.clientWidth, this.#labelWidth + 16);
    return { left, width: this.#canvas.clientWidth - left - 4 };
  }

  /** Indices of the classes with the highest maximum probability. */
  #shownClasses() {
    const ranked = () => [...this.#peaks.keys()].sort((a, b) => this.#peaks[b] - this.#peaks[a]);
    return (this.#shown ??= ranked().slice(0, MAX_ROWS).sort((a, b) => a - b));
  }

  #drawAxis(context, color, left, width) {
    const height = this.#canvas.clientHeight;
    const step = [0.5, 1, 2, 5, 10, 30, 60, 300, 600].find((s) => width * s / this.#seconds > 60) ?? 3600;
    context.fillStyle = color;
    for (let time = 0; time <= this.#seconds; time += step) {
      const x = left + width * time / this.#seconds;
      const text = time < 60 || step % 60 ? `${+time.toFixed(1)} s` : `${time / 60} min`;
      const textWidth = context.measureText(text).width;
      const textX = Math.min(Math.max(left, x - textWidth / 2), left + width - textWidth);
      context.fillText(text, textX, height - AXIS_HEIGHT / 2 + 2);
    }
    context.fillRect(left + width * Math.min(1, this.cursor / this.#seconds) - 1, 0, 2, height - AXIS_HEIGHT);
  }
}

function ellipsize(context, text, maxWidth) {
  if (context.measureText(text).width <= maxWidth) return text;
  let end = text.length;
  while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > maxWidth) end--;
  return `${text.slice(0, end)}…`;
}
