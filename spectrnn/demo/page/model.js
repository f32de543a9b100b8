// The exported model and its settings.

export class Model {
  #worker = new Worker("worker.js", { type: "module" });
  #pending = new Map(); // requests to the worker by id
  #lastId = 0;
  #ready = new Promise((resolve, reject) => this.#pending.set(0, { resolve, reject }));

  /** Loads model.json, whose entries become properties, and model.onnx. */
  static async load() {
    const response = await fetch("model.json");
    if (!response.ok) throw new Error(`model.json: ${response.status} ${response.statusText}`);
    const model = Object.assign(new Model(), await response.json());
    await model.#ready;
    return model;
  }

  constructor() {
    this.#worker.onmessage = ({ data: { id, outputs, error } }) => {
      const { resolve, reject } = this.#pending.get(id);
      this.#pending.delete(id);
      if (error) reject(new Error(error)); else resolve(outputs);
    };
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#pending.values()) reject(new Error(event.message ?? "the worker cannot be started"));
      this.#pending.clear();
    };
  }

  /** Window length in samples. */
  get window() {
    return Math.round(this.window_seconds * this.sample_rate);
  }

  /**
   * Classifies a window: (samples,) at the model's sample rate.
   * Returns its length in `seconds`, `probabilities` (classes,), `features` (frames of bins), and the `attention`
   * weights (heads of states), or null without attention pooling.
   */
  async run(samples) {
    const lengths = { data: BigInt64Array.of(BigInt(samples.length)), dims: [1] };
    const outputs = await this.request("model.onnx", { waveform: { data: samples, dims: [1, samples.length] }, lengths });
    return {
      seconds: samples.length / this.sample_rate,
      probabilities: outputs.probabilities.data,
      features: toRows(outputs.features),
      attention: outputs.attention ? toRows(outputs.attention) : null,
    };
  }

  /** Runs the model in a file with inputs by name, `data` and `dims`; returns its outputs likewise. */
  request(file, inputs) {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#worker.postMessage({ id, file, inputs });
    });
  }

  /** Probability from which a class counts as detected: its threshold if tuned, which background classes lack, else 0.5. */
  threshold(index) {
    return this.thresholds ? this.thresholds[index] ?? Infinity : 0.5;
  }

  /**
   * What the page states about probabilities (classes,): the most probable class, and whether it reaches its threshold;
   * of classes that may sound together, all that reach theirs.
   */
  verdict(probabilities) {
    const detected = this.labels.filter((_, index) => probabilities[index] >= this.threshold(index));
    const best = probabilities.indexOf(Math.max(...probabilities)), probability = probabilities[best];
    const label = !this.exclusive && detected.length > 1 ? detected.join(" + ") : this.labels[best];
    return { label, probability, confident: probability >= this.threshold(best) };
  }

  /** Probabilities (classes,) of a recording from those of its windows: of the mean of their logits, as `predict`. */
  combine(results) {
    if (!this.exclusive) {
      return results[0].map((_, label) => {
        const logits = results.map((result) => Math.log(Math.max(result[label], 1e-12) / Math.max(1 - result[label], 1e-7)));
        return 1 / (1 + Math.exp(-logits.reduce((sum, logit) => sum + logit, 0) / logits.length));
      });
    }
    const means = results[0].map((_, label) => {
      return Math.exp(results.reduce((sum, result) => sum + Math.log(Math.max(result[label], 1e-12)), 0) / results.length);
    });
    const total = means.reduce((sum, mean) => sum + mean, 0);
    return means.map((mean) => mean / total);
  }

  /** First samples of a recording's windows, which overlap by half; the last window ends with the recording. */
  windowStarts(length) {
    const step = Math.max(1, Math.round(this.window / 2)), starts = [];
    for (let start = 0; start + this.window < length; start += step) starts.push(start);
    return length > this.window ? [...starts, length - this.window] : [0];
  }

  /** Start and end in s of the part of a recording that each of its windows stands for: halfway to its neighbors. */
  windowSpans(starts, length) {
    const center = (index) => starts[index] + this.window / 2;
    const bounds = [0, ...starts.slice(1).map((_, index) => (center(index) + center(index + 1)) / 2), length];
    return starts.map((_, index) => [bounds[index] / this.sample_rate, bounds[index + 1] / this.sample_rate]);
  }
}

/** Splits a tensor (1, rows, columns) into an array of rows. */
function toRows({ data, dims: [, count, columns] }) {
  return Array.from({ length: count }, (_, row) => data.subarray(row * columns, (row + 1) * columns));
}
