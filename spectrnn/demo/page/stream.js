// Classification of an endless stream by a causal model, whose state is kept from block to block: the cost of a block
// does not depend on the length of the window. As RollingClassifier in Python: staggered replicas, rows of one batch, are
// reset in turn, and the one that was reset longest ago provides the output.

export class Stream {
  #model; #state = new Map(); #rest = new Float32Array(0); #frames = 0; #features = []; #resetStride; #maxFrames;

  /** `model.stream`: `window` and `hop` in samples, `num_replicas`, and `state`, the tensors of the initial state. */
  constructor(model) {
    this.#model = model;
    const { window, hop, num_replicas, state } = model.stream;
    this.#maxFrames = 1 + Math.floor(Math.max(0, model.window - window) / hop);
    this.#resetStride = Math.max(1, Math.floor(this.#maxFrames / num_replicas));
    for (const { name, shape, fill } of state) {
      const dims = [num_replicas, ...shape];
      this.#state.set(name, { data: new Float32Array(dims.reduce((size, dim) => size * dim, 1)).fill(fill), dims });
    }
  }

  /** Processes the next samples; returns a result as `Model.run`, or null before the first frame is complete. */
  async push(samples) {
    const { window, hop, num_replicas } = this.#model.stream;
    let waveform = new Float32Array(this.#rest.length + samples.length), outputs = null;
    waveform.set(this.#rest);
    waveform.set(samples, this.#rest.length);
    for (;;) {
      const overlap = this.#frames ? 0 : window - hop; // the first frame takes a whole window
      const sinceReset = this.#frames % this.#resetStride;
      const count = Math.min(Math.floor((waveform.length - overlap) / hop), this.#resetStride - sinceReset);
      if (count < 1) break;
      if (!sinceReset) this.#reset(this.#frames / this.#resetStride % num_replicas);
      outputs = await this.#run(waveform.subarray(0, overlap + count * hop));
      waveform = waveform.subarray(overlap + count * hop);
      this.#frames += count;
    }
    this.#rest = waveform.slice();
    return outputs && this.#result(outputs);
  }

  /** Sets a replica to the initial state, except its pending samples, which all replicas share. */
  #reset(replica) {
    for (const { name, fill } of this.#model.stream.state) {
      const { data } = this.#state.get(name), size = data.length / this.#model.stream.num_replicas;
      if (name !== "pending") data.fill(fill, replica * size, (replica + 1) * size);
    }
  }

  async #run(block) {
    const { num_replicas } = this.#model.stream, waveform = new Float32Array(num_replicas * block.length);
    for (let replica = 0; replica < num_replicas; replica++) waveform.set(block, replica * block.length);
    const outputs = await this.#model.request("stream.onnx", {
      waveform: { data: waveform, dims: [num_replicas, block.length] }, ...Object.fromEntries(this.#state),
    });
    for (const name of this.#state.keys()) this.#state.set(name, outputs[`next_${name}`]);
    const { data, dims: [, frames, bins] } = outputs.features; // those of the first replica are those of all
    for (let frame = 0; frame < frames; frame++) this.#features.push(data.slice(frame * bins, (frame + 1) * bins));
    this.#features.splice(0, this.#features.length - this.#maxFrames);
    return outputs;
  }

  #result({ probabilities: { data } }) {
    const { window, hop, num_replicas } = this.#model.stream, classes = this.#model.labels.length;
    const oldest = (1 + Math.floor((this.#frames - 1) / this.#resetStride)) % num_replicas;
    return {
      seconds: ((this.#features.length - 1) * hop + window) / this.#model.sample_rate,
      probabilities: data.slice(oldest * classes, (oldest + 1) * classes),
      features: this.#features,
      attention: null,
    };
  }
}
