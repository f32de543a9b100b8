// Plot of a window's features, with the attention weights and the playback position.

const MAGMA = [[0, 0, 4], [20, 14, 54], [59, 15, 112], [100, 26, 128], [140, 41, 129], [183, 55, 121], [222, 73, 104],
  [247, 112, 92], [254, 159, 109], [254, 207, 146], [252, 253, 191]];
const MARGIN = { left: 56, bottom: 24, top: 4, right: 4 }; // space for the axes in CSS pixels
const MIN_RANGE = 3; // of the features from black to white, so that silence stays dark
const ATTENTION_COLOR = "#7aecff";
const FREQUENCY_TICKS = [50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000]; // Hz

export class Spectrogram {
  #canvas; #centerFrequencies; #image = document.createElement("canvas");
  #result = null; #low = null; #high = null;
  showAttention = true;
  cursor = null; // playback position in the recording in s; null for live audio, whose window ends now
  span = 1; // length of the time axis in s; a shorter live window is aligned to its right end
  start = 0; // start of the window in the recording in s

  /** `centerFrequencies`: of the feature bins in Hz, or null for cepstral coefficients. */
  constructor(canvas, centerFrequencies) {
    this.#canvas = canvas;
    this.#centerFrequencies = centerFrequencies;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Shows a result of `Model.run`. `smooth`: adapts the color range gradually, for live audio. */
  show(result, smooth = false) {
    this.#result = result;
    const bins = this.#binCount();
    const values = Float32Array.from(result.features.flatMap((frame) => [...frame.subarray(0, bins)])).sort();
    const low = values[Math.floor(0.05 * (values.length - 1))], high = values[Math.floor(0.998 * (values.length - 1))];
    const rate = smooth && this.#low !== null ? 0.08 : 1;
    this.#low = rate * low + (1 - rate) * this.#low;
    this.#high = rate === 1 || high > this.#high ? high : rate * high + (1 - rate) * this.#high; // rises at once
    this.#renderImage(bins);
    this.draw();
  }

  /** Time within the window in s at a horizontal position in pixels. */
  timeAt(x) {
    const width = this.#canvas.clientWidth - MARGIN.left - MARGIN.right;
    return Math.min(1, Math.max(0, (x - MARGIN.left) / width)) * this.span;
  }

  draw() {
    const { clientWidth, clientHeight } = this.#canvas, scale = devicePixelRatio;
    this.#canvas.width = clientWidth * scale;
    this.#canvas.height = clientHeight * scale;
    const context = this.#canvas.getContext("2d"), style = getComputedStyle(this.#canvas);
    context.scale(scale, scale);
    const box = { x: MARGIN.left, y: MARGIN.top,
      width: clientWidth - MARGIN.left - MARGIN.right, height: clientHeight - MARGIN.top - MARGIN.bottom };
    context.fillStyle = this.#result ? rgb(MAGMA[0]) : style.getPropertyValue("--track");
    context.fillRect(box.x, box.y, box.width, box.height);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = style.color;
    this.#drawFrequencyAxis(context, box);
    this.#drawTimeAxis(context, box);
    if (!this.#result) return;
    const live = this.cursor === null, width = box.width * Math.min(1, this.#result.seconds / this.span);
    const x = live ? box.x + box.width - width : box.x;
    context.imageSmoothingEnabled = true;
    context.drawImage(this.#image, x, box.y, width, box.height);
    if (this.showAttention && this.#result.attention) drawAttention(context, { ...box, x, width }, this.#result.attention);
    if (!live) this.#drawCursor(context, box);
  }

  /** Number of bins to show: without deltas, which follow the bins. */
  #binCount() {
    return this.#centerFrequencies?.length ?? this.#result.features[0].length;
  }

  #renderImage(bins) {
    const frames = this.#result.features, pixels = new ImageData(frames.length, bins);
    const range = Math.max(MIN_RANGE, this.#high - this.#low);
    frames.forEach((frame, x) => {
      for (let bin = 0; bin < bins; bin++) {
        const offset = ((bins - 1 - bin) * frames.length + x) * 4;
        pixels.data.set([...magma((frame[bin] - this.#low) / range), 255], offset);
      }
    });
    this.#image.width = frames.length;
    this.#image.height = bins;
    this.#image.getContext("2d").putImageData(pixels, 0, 0);
  }

  #drawCursor(context, box) {
    const x = box.x + box.width * Math.min(1, Math.max(0, (this.cursor - this.start) / this.span));
    for (const [color, width] of [["#000", 4], ["#fff", 2]]) { // visible on dark and bright pixels
      context.fillStyle = color;
      context.fillRect(x - width / 2, box.y, width, box.height);
    }
  }

  #drawFrequencyAxis(context, box) {
    context.textBaseline = "middle";
    context.textAlign = "right";
    let previous = Infinity; // y of the label below
    for (const [text, fraction] of this.#frequencyTicks()) {
      const y = box.y + box.height * (1 - fraction);
      if (previous - y < 22) continue;
      context.fillText(text, box.x - 8, Math.max(y, box.y + 6));
      previous = y;
    }
  }

  /** Labels of round frequencies, with their positions as fractions of the height. */
  #frequencyTicks() {
    const centers = this.#centerFrequencies ?? [];
    return FREQUENCY_TICKS.filter((tick) => tick >= centers[0] && tick <= centers.at(-1)).map((tick) => {
      const above = Math.max(1, centers.findIndex((center) => center >= tick));
      const bin = above - (centers[above] - tick) / (centers[above] - centers[above - 1]);
      return [tick < 1000 ? `${tick} Hz` : `${tick / 1000} kHz`, (bin + 0.5) / centers.length];
    });
  }

  #drawTimeAxis(context, box) {
    context.textBaseline = "bottom";
    context.textAlign = "center";
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60].find((s) => box.width * s / this.span > 52) ?? 300;
    const live = this.cursor === null, start = live ? -this.span : this.start;
    for (let tick = Math.ceil(start / step - 1e-6); tick * step <= start + this.span + 1e-6; tick++) {
      const text = live && tick === 0 ? "now" : `${+(tick * step).toFixed(1)} s`.replace("-", "−");
      const halfWidth = context.measureText(text).width / 2, x = box.x + box.width * (tick * step - start) / this.span;
      context.fillText(text, Math.min(x, box.x + box.width - halfWidth), box.y + box.height + MARGIN.bottom - 2);
    }
  }
}

/** Draws the attention weights: a thin line per head, and their mean as a thick line with a shaded area. */
function drawAttention(context, { x, y, width, height }, heads) {
  const states = heads[0].length, max = Math.max(...heads.map((head) => Math.max(...head)));
  const mean = heads[0].map((_, state) => heads.reduce((sum, head) => sum + head[state], 0) / heads.length);
  const trace = (weights) => {
    context.beginPath();
    weights.forEach((weight, state) => {
      context.lineTo(x + width * (state + 0.5) / states, y + height * (0.98 - 0.45 * weight / max));
    });
  };
  context.lineJoin = "round";
  trace(mean);
  context.lineTo(x + width, y + height);
  context.lineTo(x, y + height);
  context.fillStyle = "rgb(0 0 4 / .35)";
  context.fill();
  for (const [weights, lineWidth] of [...heads.map((head) => [head, 1.2]), [mean, 2.5]]) {
    trace(weights);
    for (const [color, strokeWidth] of [["rgb(0 0 4 / .6)", lineWidth + 1.6], [ATTENTION_COLOR, lineWidth]]) {
      context.strokeStyle = color;
      context.lineWidth = strokeWidth;
      context.stroke();
    }
  }
}

/** Color [red, green, blue] of a value from 0 to 1. */
function magma(value) {
  const position = Math.min(1, Math.max(0, value)) * (MAGMA.length - 1);
  const below = Math.min(MAGMA.length - 2, Math.floor(position));
  return MAGMA[below].map((low, channel) => low + (MAGMA[below + 1][channel] - low) * (position - below));
}

function rgb(channels) {
  return `rgb(${channels.join(" ")})`;
}
