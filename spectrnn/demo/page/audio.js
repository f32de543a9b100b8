// Audio as the model takes it: mono, float32 in [-1, 1), at the model's sample rate; from files and the microphone.

const MIN_RATE = 8000, MAX_RATE = 96000; // sample rates in Hz that the audio contexts of all browsers support
const ZERO_CROSSINGS = 16; // on each side of the resampler's sinc

/** Decodes the bytes of a file (ArrayBuffer) to samples (samples,) at `rate` Hz. */
export async function decode(bytes, rate) {
  const contextRate = Math.min(Math.max(rate, MIN_RATE), MAX_RATE);
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, contextRate).decodeAudioData(bytes); // resamples to the context's rate
  } catch {
    throw new Error("the browser cannot decode it. Supported are WAV, MP3 and FLAC, in most browsers also Ogg and M4A");
  }
  const samples = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    const data = audio.getChannelData(channel);
    for (let i = 0; i < data.length; i++) samples[i] += data[i] / audio.numberOfChannels;
  }
  if (!samples.length) throw new Error("the file contains no audio");
  return resample(samples, contextRate, rate);
}

/** Resamples with a Hann-windowed sinc: (samples,) at `from` Hz -> (samples,) at `to` Hz. */
export function resample(samples, from, to) {
  if (from === to) return samples;
  const cutoff = Math.min(1, to / from); // relative to the Nyquist frequency of `from`
  const halfWidth = ZERO_CROSSINGS / cutoff;
  const result = new Float32Array(Math.max(1, Math.round(samples.length * to / from)));
  for (let i = 0; i < result.length; i++) {
    const center = i * from / to;
    const last = Math.min(samples.length - 1, Math.floor(center + halfWidth));
    let sum = 0;
    for (let j = Math.max(0, Math.ceil(center - halfWidth)); j <= last; j++) {
      const x = (j - center) * cutoff, angle = Math.PI * x;
      const hann = 0.5 + 0.5 * Math.cos(angle / ZERO_CROSSINGS);
      sum += samples[j] * hann * (x === 0 ? 1 : Math.sin(angle) / angle);
    }
    result[i] = sum * cutoff;
  }
  return result;
}

/** Ring buffer of the last `size` samples. */
export class RingBuffer {
  #samples; #count = 0; // count: of all samples appended so far

  constructor(size) {
    this.#samples = new Float32Array(size);
  }

  append(block) {
    for (const sample of block) this.#samples[this.#count++ % this.#samples.length] = sample;
  }

  /** The last samples in order; fewer than `size` at the start. */
  latest() {
    const split = this.#count % this.#samples.length;
    const samples = new Float32Array(Math.min(this.#count, this.#samples.length));
    if (this.#count > split) samples.set(this.#samples.subarray(split)); // older than those at the start of the buffer
    samples.set(this.#samples.subarray(0, split), samples.length - split);
    return samples;
  }

  /** The samples appended after the first `count` ones, as far as they are still there; and the count of all. */
  since(count) {
    const samples = this.latest();
    return { samples: samples.subarray(Math.max(0, samples.length - (this.#count - count))), count: this.#count };
  }
}

/** Records the last `seconds` of the microphone. */
export class Microphone {
  #context; #stream; #buffer; #taken = 0; // samples that `take` has returned

  /** Requests the microphone; calls `onended` if it is disconnected or the permission is revoked. */
  static async open(rate, seconds, onended) {
    if (!navigator.mediaDevices) throw new Error("The microphone is only available on pages served by HTTPS or from localhost.");
    // Without processing, as the training data.
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new Error({
        NotAllowedError: "The browser does not allow microphone access. Allow it in the address bar and try again.",
        NotFoundError: "No microphone found. Connect one, or open a file.",
      }[error.name] ?? `The microphone cannot be opened: ${error.message}`);
    }
    const microphone = new Microphone();
    try {
      await microphone.#start(stream, rate, seconds);
    } catch (error) {
      await microphone.close();
      throw error;
    }
    stream.getAudioTracks()[0].addEventListener("ended", onended);
    return microphone;
  }

  async #start(stream, rate, seconds) {
    this.#stream = stream;
    const source = this.#createSource(stream, rate);
    this.#buffer = new RingBuffer(Math.ceil(seconds * this.#context.sampleRate));
    await this.#context.audioWorklet.addModule("recorder.js");
    const recorder = new AudioWorkletNode(this.#context, "recorder", { numberOfOutputs: 0 });
    recorder.port.onmessage = ({ data }) => this.#buffer.append(data);
    source.connect(recorder);
    await this.#context.resume();
  }

  /** Chromium resamples the microphone to the context's rate. Other browsers may refuse; `latest` resamples there. */
  #createSource(stream, rate) {
    try {
      this.#context = new AudioContext({ sampleRate: rate });
      return this.#context.createMediaStreamSource(stream);
    } catch {
      this.#context?.close();
      this.#context = new AudioContext();
      return this.#context.createMediaStreamSource(stream);
    }
  }

  /** The last `seconds` of audio at `rate` Hz; less at the start. */
  latest(rate) {
    return resample(this.#buffer.latest(), this.#context.sampleRate, rate);
  }

  /** The audio since the last call at `rate` Hz; null if the browser records at another rate. */
  take(rate) {
    if (this.#context.sampleRate !== rate) return null;
    const { samples, count } = this.#buffer.since(this.#taken);
    this.#taken = count;
    return samples;
  }

  async close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context && this.#context.state !== "closed") await this.#context.close();
  }
}
