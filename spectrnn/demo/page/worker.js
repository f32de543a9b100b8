// Web worker that runs the model, so that the page stays responsive.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more threads need response headers that a static web server may not send
ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };

const session = ort.InferenceSession.create("model.onnx");
session.then(() => postMessage({ id: 0 }), (error) => postMessage({ id: 0, error: error.message }));

onmessage = async ({ data: { id, samples } }) => {
  try {
    const waveform = new ort.Tensor("float32", samples, [1, samples.length]);
    const lengths = new ort.Tensor("int64", BigInt64Array.of(BigInt(samples.length)), [1]);
    const results = await (await session).run({ waveform, lengths });
    const outputs = {};
    for (const [name, { data, dims }] of Object.entries(results)) outputs[name] = { data: data.slice(), dims };
    postMessage({ id, outputs }, Object.values(outputs).map(({ data }) => data.buffer));
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
