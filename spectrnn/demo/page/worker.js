// Web worker that runs the models, so that the page stays responsive.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more threads need response headers that a static web server may not send
ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };

const sessions = {}; // by file

function load(file) {
  return (sessions[file] ??= ort.InferenceSession.create(file));
}

load("model.onnx").then(() => postMessage({ id: 0 }), (error) => postMessage({ id: 0, error: error.message }));

/** Runs a model with `inputs` by name: `data` and `dims`. */
onmessage = async ({ data: { id, file, inputs } }) => {
  try {
    const tensors = Object.entries(inputs).map(([name, { data, dims }]) => {
      return [name, new ort.Tensor(data instanceof BigInt64Array ? "int64" : "float32", data, dims)];
    });
    const results = await (await load(file)).run(Object.fromEntries(tensors));
    const outputs = {};
    for (const [name, { data, dims }] of Object.entries(results)) outputs[name] = { data: data.slice(), dims };
    postMessage({ id, outputs }, Object.values(outputs).map(({ data }) => data.buffer));
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
