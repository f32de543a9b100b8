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
    const id = ++this.#lastId;
    const outputs = await new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#worker.postMessage({ id, samples });
    });
    return {
      seconds: samples.length / this.sample_rate,
      probabilities: outputs.probabilities.data,
      features: toRows(outputs.features),
      attention: outputs.attention ? toRows(outputs.attention) : null,
    };
  }

  /** First samples of a recording's windows, which overlap by half; the last window ends with the recording. */
  windowStarts(length) {
    const step = Math.max(1, Math.round(this.window / 2)), starts = [];
    for (let start = 0; start + this.window < length; start += step) starts.push(start);
    return length > this.window ? [...starts, length - this.window] : [0];
  }
}

/** Splits a tensor (1, rows, columns) into an array of rows. */
function toRows({ data, dims: [, count, columns] }) {
  return Array.from({ length: count }, (_, row) => data.subarray(row * columns, (row + 1) * columns));
}
