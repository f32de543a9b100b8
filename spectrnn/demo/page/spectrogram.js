// The model's features as a picture: time to the right, frequency upwards, brighter is louder; attention above it.

const MAGMA = [[0, 0, 4], [20, 14, 54], [59, 15, 112], [100, 26, 128], [140, 41, 129], [183, 55, 121], [222, 73, 104],
  [247, 112, 92], [254, 159, 109], [254, 207, 146], [252, 253, 191]];
const LEFT = 56, BOTTOM = 24, TOP = 4, RIGHT = 4; // CSS pixels around the picture, for the axes
const LEAST_RANGE = 3; // of the features between black and white, so that silence stays dark
const LOOK = "#7aecff"; // of the attention, which no other part has
const MARKS = [50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000]; // Hz

export class Spectrogram {
  #canvas; #centres; #picture = document.createElement("canvas");
  #heard = null; #low = null; #high = null;
  overlay = true;
  cursor = null; // s of the recording that is played; null for live sound, which ends now
  span = 1; // s that the picture shows; a shorter window ends at its right edge
  start = 0; // s where the window begins

  /** `centres`: of the bins, Hz; null where they are no frequencies, as in MFCC. */
  constructor(canvas, centres) {
    this.#canvas = canvas;
    this.#centres = centres;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Takes over what `Model.run` gave; `steady` lets the colours follow slowly, as for live sound. */
  show(heard, steady = false) {
    this.#heard = heard;
    const bins = this.#bins();
    const values = Float32Array.from(heard.features.flatMap((frame) => [...frame.subarray(0, bins)])).sort();
    const low = values[Math.floor(0.05 * (values.length - 1))], high = values[Math.floor(0.998 * (values.length - 1))];
    const pace = steady && this.#low !== null ? 0.08 : 1;
    this.#low = pace * low + (1 - pace) * this.#low;
    this.#high = high > this.#high ? high : pace * high + (1 - pace) * this.#high; // never behind what gets louder
    if (pace === 1) this.#high = high;
    this.#paint(bins);
    this.draw();
  }

  /** Where in the window a pixel's column lies, s. */
  time(x) {
    const width = this.#canvas.clientWidth - LEFT - RIGHT;
    return Math.min(1, Math.max(0, (x - LEFT) / width)) * this.span;
  }

  /** Deltas, which come after the bins, are not shown. */
  #bins() {
    return this.#centres?.length ?? this.#heard.features[0].length;
  }

  #paint(bins) {
    const frames = this.#heard.features, image = new ImageData(frames.length, bins);
    const range = Math.max(LEAST_RANGE, this.#high - this.#low);
    frames.forEach((frame, x) => {
      for (let bin = 0; bin < bins; bin++) {
        const at = ((bins - 1 - bin) * frames.length + x) * 4;
        image.data.set(magma((frame[bin] - this.#low) / range), at);
      }
    });
    this.#picture.width = frames.length;
    this.#picture.height = bins;
    this.#picture.getContext("2d").putImageData(image, 0, 0);
  }

  draw() {
    const { clientWidth, clientHeight } = this.#canvas, scale = devicePixelRatio;
    this.#canvas.width = clientWidth * scale;
    this.#canvas.height = clientHeight * scale;
    const pen = this.#canvas.getContext("2d");
    pen.scale(scale, scale);
    const box = { x: LEFT, y: TOP, width: clientWidth - LEFT - RIGHT, height: clientHeight - TOP - BOTTOM };
    pen.fillStyle = this.#heard ? rgb(MAGMA[0]) : getComputedStyle(this.#canvas).getPropertyValue("--track");
    pen.fillRect(box.x, box.y, box.width, box.height);
    pen.font = "12px system-ui, sans-serif";
    pen.fillStyle = getComputedStyle(this.#canvas).color;
    this.#axes(pen, box);
    if (!this.#heard) return;
    const share = Math.min(1, this.#heard.seconds / this.span), live = this.cursor === null;
    const width = box.width * share, x = live ? box.x + box.width - width : box.x;
    pen.imageSmoothingEnabled = true;
    pen.drawImage(this.#picture, x, box.y, width, box.height);
    if (this.overlay && this.#heard.attention) attend(pen, { ...box, x, width }, this.#heard.attention);
    if (!live) this.#line(pen, box);
  }

  #line(pen, box) {
    const x = box.x + box.width * Math.min(1, Math.max(0, (this.cursor - this.start) / this.span));
    for (const [colour, wide] of [["#000", 4], ["#fff", 2]]) { // seen on the dark and on the bright
      pen.fillStyle = colour;
      pen.fillRect(x - wide / 2, box.y, wide, box.height);
    }
  }

  #axes(pen, box) {
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    let free = Infinity; // pixels above the last label
    for (const [text, share] of this.#centres ? this.#frequencies() : []) {
      const y = box.y + box.height * (1 - share);
      if (free - y < 22) continue;
      pen.fillText(text, box.x - 8, Math.max(y, box.y + 6));
      free = y;
    }
    pen.textBaseline = "bottom";
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60].find((s) => box.width * s / this.span > 52) ?? 300;
    pen.textAlign = "center";
    const live = this.cursor === null, begin = live ? -this.span : this.start;
    for (let count = Math.ceil(begin / step - 1e-6); count * step <= begin + this.span + 1e-6; count++) {
      const text = live && count === 0 ? "now" : `${+(count * step).toFixed(1)} s`.replace("-", "−");
      const half = pen.measureText(text).width / 2, x = box.x + box.width * (count * step - begin) / this.span;
      pen.fillText(text, Math.min(x, box.x + box.width - half), box.y + box.height + BOTTOM - 2);
    }
  }

  /** Labels with the share of the height at which they stand. */
  #frequencies() {
    const centres = this.#centres;
    return MARKS.filter((mark) => mark >= centres[0] && mark <= centres.at(-1)).map((mark) => {
      const above = Math.max(1, centres.findIndex((centre) => centre >= mark));
      const bin = above - (centres[above] - mark) / (centres[above] - centres[above - 1]);
      return [mark < 1000 ? `${mark} Hz` : `${mark / 1000} kHz`, (bin + 0.5) / centres.length];
    });
  }
}

/** Where the pooling looks: a thin line a head, and their mean, which stands on a veil. */
function attend(pen, { x, y, width, height }, heads) {
  const states = heads[0].length, most = Math.max(...heads.map((head) => Math.max(...head)));
  const mean = heads[0].map((_, at) => heads.reduce((sum, head) => sum + head[at], 0) / heads.length);
  const line = (weights) => {
    pen.beginPath();
    weights.forEach((weight, at) => {
      pen.lineTo(x + width * (at + 0.5) / states, y + height * (0.98 - 0.45 * weight / most));
    });
  };
  pen.lineJoin = "round";
  line(mean);
  pen.lineTo(x + width, y + height);
  pen.lineTo(x, y + height);
  pen.fillStyle = "rgb(0 0 4 / .35)";
  pen.fill();
  for (const [weights, colour, thick] of [...heads.map((head) => [head, "rgb(122 236 255)", 1.2]), [mean, LOOK, 2.5]]) {
    line(weights);
    for (const [style, wide] of [["rgb(0 0 4 / .6)", thick + 1.6], [colour, thick]]) {
      pen.strokeStyle = style;
      pen.lineWidth = wide;
      pen.stroke();
    }
  }
}

/** A share of 1 as red, green, blue and alpha. */
function magma(share) {
  const at = Math.min(1, Math.max(0, share)) * (MAGMA.length - 1), below = Math.min(MAGMA.length - 2, Math.floor(at));
  return [...MAGMA[below].map((dark, part) => dark + (MAGMA[below + 1][part] - dark) * (at - below)), 255];
}

function rgb(parts) {
  return `rgb(${parts.join(" ")})`;
}
