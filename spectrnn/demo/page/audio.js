// Sound as the model takes it: mono, at its rate, float32 in [-1, 1). From files and from the microphone.

const SLOWEST = 8000, FASTEST = 96000; // Hz that every browser's audio contexts take
const CROSSINGS = 16; // of the sinc on either side, in the resampler

/** The sound of a file's bytes (ArrayBuffer): (samples,) at `rate` Hz. Throws a sentence. */
export async function decode(bytes, rate) {
  const near = Math.min(Math.max(rate, SLOWEST), FASTEST);
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, near).decodeAudioData(bytes); // resamples to the context's rate
  } catch {
    throw new Error("cannot be decoded here: the browser reads WAV, MP3, FLAC, and mostly Ogg and M4A");
  }
  const samples = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    const data = sound.getChannelData(channel);
    for (let at = 0; at < data.length; at++) samples[at] += data[at] / sound.numberOfChannels;
  }
  if (!samples.length) throw new Error("holds no sound");
  return resample(samples, near, rate);
}

/** Band-limited resampling by a windowed sinc: (samples,) at `from` Hz -> (samples,) at `to` Hz. */
export function resample(samples, from, to) {
  if (from === to) return samples;
  const cutoff = Math.min(1, to / from); // of the slower rate's half
  const reach = CROSSINGS / cutoff;
  const result = new Float32Array(Math.max(1, Math.round(samples.length * to / from)));
  for (let at = 0; at < result.length; at++) {
    const centre = at * from / to;
    const last = Math.min(samples.length - 1, Math.floor(centre + reach));
    let sum = 0;
    for (let near = Math.max(0, Math.ceil(centre - reach)); near <= last; near++) {
      const x = (near - centre) * cutoff, angle = Math.PI * x;
      const hann = 0.5 + 0.5 * Math.cos(angle / CROSSINGS);
      sum += samples[near] * hann * (x === 0 ? 1 : Math.sin(angle) / angle);
    }
    result[at] = sum * cutoff;
  }
  return result;
}

/** The last `size` samples of what is appended. */
export class Ring {
  #samples; #heard = 0;

  constructor(size) {
    this.#samples = new Float32Array(size);
  }

  append(block) {
    for (const sample of block) this.#samples[this.#heard++ % this.#samples.length] = sample;
  }

  /** In their order; fewer in the beginning. */
  latest() {
    const split = this.#heard % this.#samples.length;
    const samples = new Float32Array(Math.min(this.#heard, this.#samples.length));
    if (this.#heard > split) samples.set(this.#samples.subarray(split)); // older than the newest round
    samples.set(this.#samples.subarray(0, split), samples.length - split);
    return samples;
  }
}

/** The microphone's last `seconds`. */
export class Microphone {
  #context; #stream; #ring;

  /** Asks for the microphone; `onend` is called when it is taken away. Throws a sentence. */
  static async open(rate, seconds, onend) {
    if (!navigator.mediaDevices) throw new Error("The microphone needs a page from https, or from this machine.");
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false }; // as the model was trained
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: raw });
    } catch (error) {
      throw new Error({
        NotAllowedError: "The browser does not let this page hear the microphone: allow it beside the address, and listen again.",
        NotFoundError: "There is no microphone: connect one, or open a file.",
      }[error.name] ?? `The microphone cannot be opened: ${error.message}`);
    }
    const microphone = new Microphone();
    try {
      await microphone.#begin(stream, rate, seconds);
    } catch (error) {
      await microphone.close();
      throw error;
    }
    stream.getAudioTracks()[0].addEventListener("ended", onend);
    return microphone;
  }

  async #begin(stream, rate, seconds) {
    this.#stream = stream;
    const source = this.#connected(stream, rate);
    this.#ring = new Ring(Math.ceil(seconds * this.#context.sampleRate));
    await this.#context.audioWorklet.addModule("recorder.js");
    const recorder = new AudioWorkletNode(this.#context, "recorder", { numberOfOutputs: 0 });
    recorder.port.onmessage = ({ data }) => this.#ring.append(data);
    source.connect(recorder);
    await this.#context.resume();
  }

  /** Chromium resamples the microphone to a context's rate; a browser that refuses keeps its own, and we resample. */
  #connected(stream, rate) {
    try {
      this.#context = new AudioContext({ sampleRate: rate });
      return this.#context.createMediaStreamSource(stream);
    } catch {
      this.#context?.close();
      this.#context = new AudioContext();
      return this.#context.createMediaStreamSource(stream);
    }
  }

  /** What was heard last, at `rate` Hz; shorter than `seconds` in the beginning. */
  latest(rate) {
    return resample(this.#ring.latest(), this.#context.sampleRate, rate);
  }

  async close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
  }
}
