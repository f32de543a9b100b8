// The model as the page sees it: samples in, what the classifier says out.

export class Model {
  #worker = new Worker("worker.js", { type: "module" });
  #waiting = new Map();
  #asked = 0;

  /** Loads model.json and model.onnx. */
  static async load() {
    const answer = await fetch("model.json");
    if (!answer.ok) throw new Error(`model.json: ${answer.status} ${answer.statusText}`);
    const model = Object.assign(new Model(), await answer.json());
    await model.#ready;
    return model;
  }

  #ready = new Promise((resolve, reject) => this.#waiting.set(0, { resolve, reject }));

  constructor() {
    this.#worker.onmessage = ({ data: { id, results, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) reject(new Error(error)); else resolve(results);
    };
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message ?? "it cannot be loaded"));
      this.#waiting.clear();
    };
  }

  /** Samples of the window that is classified at once. */
  get window() {
    return Math.round(this.window_seconds * this.sample_rate);
  }

  /**
   * Classifies a window: (samples,) at the model's rate.
   * Returns probabilities (classes,), features as rows of frames, and the attention of each head, or null.
   */
  async run(samples) {
    const id = ++this.#asked;
    const results = await new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, samples });
    });
    return {
      seconds: samples.length / this.sample_rate,
      probabilities: results.probabilities.data,
      features: rows(results.features),
      attention: results.attention ? rows(results.attention) : null,
    };
  }

  /** The first samples of the windows of a recording, at half steps; the last one ends with it. */
  starts(samples) {
    const step = Math.max(1, Math.round(this.window / 2)), starts = [];
    for (let start = 0; start + this.window < samples; start += step) starts.push(start);
    return samples > this.window ? [...starts, samples - this.window] : [0];
  }
}

/** (1, rows, columns) -> an array of rows. */
function rows({ data, dims: [, count, columns] }) {
  return Array.from({ length: count }, (_, row) => data.subarray(row * columns, (row + 1) * columns));
}
