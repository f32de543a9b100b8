// Runs on the audio thread: hands the sound on, mono, some 20 ms at a time.

class Recorder extends AudioWorkletProcessor {
  #block = new Float32Array(Math.ceil(sampleRate / 50));
  #filled = 0;

  process([channels]) {
    const samples = channels.length ? channels[0].length : 0;
    for (let at = 0; at < samples; at++) {
      let sum = 0;
      for (const channel of channels) sum += channel[at];
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
