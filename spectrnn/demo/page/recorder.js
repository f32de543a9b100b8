// Audio worklet: posts the microphone's samples to the page, mono, in blocks of 20 ms.

class Recorder extends AudioWorkletProcessor {
  #block = new Float32Array(Math.ceil(sampleRate / 50));
  #filled = 0;

  process([channels]) {
    const count = channels.length ? channels[0].length : 0;
    for (let i = 0; i < count; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.#block[this.#filled++] = sum / channels.length;
      if (this.#filled === this.#block.length) {
        this.port.postMessage(this.#block);
        this.#filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
