// The probabilities of a long recording: a row a class, time to the right, darker is more probable.

export const MOST = 12; // rows
const ROW = 26, AXIS = 24; // CSS pixels

export class Timeline {
  #canvas; #labels; #starts = []; #window = 0; #seconds = 0; #found = [];
  cursor = 0; // s

  constructor(canvas, labels) {
    [this.#canvas, this.#labels] = [canvas, labels];
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Begins with a recording: where its windows begin, their length and its own, s. */
  begin(starts, window, seconds) {
    [this.#starts, this.#window, this.#seconds, this.#found] = [starts, window, seconds, []];
    this.#canvas.style.height = `${ROW * Math.min(MOST, this.#labels.length) + AXIS}px`;
    this.draw();
  }

  /** The probabilities (classes,) of the next window. */
  add(probabilities) {
    this.#found.push(probabilities);
  }

  /** Where in the recording a pixel's column lies, s. */
  time(x) {
    const { left, width } = this.#box();
    return Math.min(1, Math.max(0, (x - left) / width)) * this.#seconds;
  }

  #box() {
    const pen = this.#canvas.getContext("2d"), widest = Math.max(...this.#labels.map((label) => pen.measureText(label).width));
    const left = Math.min(0.3 * this.#canvas.clientWidth, widest + 16);
    return { left, width: this.#canvas.clientWidth - left - 4 };
  }

  draw() {
    const { clientWidth, clientHeight } = this.#canvas, style = getComputedStyle(this.#canvas), scale = devicePixelRatio;
    [this.#canvas.width, this.#canvas.height] = [clientWidth * scale, clientHeight * scale];
    if (!this.#seconds) return;
    const pen = this.#canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "13px system-ui, sans-serif";
    const { left, width } = this.#box();
    pen.textBaseline = "middle";
    this.#shown().forEach((label, row) => {
      pen.fillStyle = style.color;
      pen.fillText(clipped(pen, this.#labels[label], left - 12), 0, ROW * (row + 0.5));
      pen.fillStyle = style.getPropertyValue("--track");
      pen.fillRect(left, ROW * row + 3, width, ROW - 6);
      pen.fillStyle = style.getPropertyValue("--bar");
      this.#found.forEach((probabilities, at) => {
        const [begin, end] = this.#span(at);
        pen.globalAlpha = probabilities[label];
        const x = Math.round(left + width * begin), right = Math.round(left + width * end);
        pen.fillRect(x, ROW * row + 3, right - x, ROW - 6);
      });
      pen.globalAlpha = 1;
    });
    this.#axis(pen, style.color, left, width);
  }

  /** The classes that are most probable anywhere. */
  #shown() {
    const most = this.#labels.map((_, label) => this.#found.reduce((most, found) => Math.max(most, found[label]), 0));
    const ranked = [...most.keys()].sort((a, b) => most[b] - most[a]).slice(0, MOST);
    return ranked.sort((a, b) => a - b);
  }

  /** A window speaks for its middle, from halfway to the one before it to halfway to the next; shares of the whole. */
  #span(at) {
    const middle = (index) => this.#starts[index] + this.#window / 2;
    const begin = at === 0 ? 0 : (middle(at - 1) + middle(at)) / 2;
    const end = at === this.#starts.length - 1 ? this.#seconds : (middle(at) + middle(at + 1)) / 2;
    return [begin / this.#seconds, end / this.#seconds];
  }

  #axis(pen, ink, left, width) {
    const bottom = this.#canvas.clientHeight;
    const step = [0.5, 1, 2, 5, 10, 30, 60, 300, 600].find((s) => width * s / this.#seconds > 60) ?? 3600;
    pen.fillStyle = ink;
    for (let time = 0; time <= this.#seconds; time += step) {
      const x = left + width * time / this.#seconds;
      const text = time < 60 || step % 60 ? `${+time.toFixed(1)} s` : `${time / 60} min`, wide = pen.measureText(text).width;
      pen.fillText(text, Math.min(Math.max(left, x - wide / 2), left + width - wide), bottom - AXIS / 2 + 2);
    }
    pen.fillRect(left + width * Math.min(1, this.cursor / this.#seconds) - 1, 0, 2, bottom - AXIS);
  }
}

function clipped(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && pen.measureText(`${text.slice(0, end)}…`).width > width) end--;
  return `${text.slice(0, end)}…`;
}
