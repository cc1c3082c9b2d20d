// Opens the model next to this page, and runs it. See https://onnxruntime.ai/docs/api/js/.

import * as ort from "./ort/ort.wasm.min.mjs";

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
  string: Array,
};
const BIG = new Set(["int64", "uint64"]);

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
if (!globalThis.crossOriginIsolated) {
  ort.env.wasm.numThreads = 1; // pages share memory with threads only if their server isolates them
}

/** A model that is open: its description, and how it runs. */
class Model {
  constructor(description, session) {
    this.description = description;
    this.session = session;
  }

  /**
   * Run the model on a batch.
   *
   * @param {Object} inputs Nested arrays by the name of the input, each with the batch in front.
   * @returns {Promise<Object>} Outputs by name: `{dims, data}`.
   */
  async run(inputs) {
    const feeds = {};
    for (const spec of this.description.inputs) {
      if (!(spec.name in inputs)) {
        throw new Error(`the input ${spec.name} is missing`);
      }
      feeds[spec.name] = tensor(spec, inputs[spec.name]);
    }
    const found = await this.session.run(feeds);
    return Object.fromEntries(
      this.description.outputs.map(({ name }) => [name, { dims: found[name].dims, data: found[name].data }]),
    );
  }
}

/** Return the model that model.json describes. */
export async function openModel() {
  const response = await fetch(new URL("./model.json", import.meta.url));
  if (!response.ok) {
    throw new Error(`model.json cannot be loaded: ${response.status}`);
  }
  const description = await response.json();
  const options = { executionProviders: ["wasm"] };
  if (description.weights !== null) {
    const data = new URL(`./${description.weights}`, import.meta.url).href;
    options.externalData = [{ path: description.weights, data }];
  }
  const session = await ort.InferenceSession.create(new URL(`./${description.file}`, import.meta.url).href, options);
  return new Model(description, session);
}

/** Return a tensor of nested arrays, which must have the shape of the input. */
export function tensor(spec, value) {
  const shape = shapeOf(value);
  const fits = shape.length === spec.shape.length
    && spec.shape.every((size, axis) => typeof size !== "number" || size === shape[axis]);
  const flat = [value].flat(Infinity);
  if (!fits || flat.length !== shape.reduce((product, size) => product * size, 1)) {
    throw new Error(`the input ${spec.name} must have the shape [${spec.shape.join(", ")}], got [${shape.join(", ")}]`);
  }
  const kind = ARRAYS[spec.dtype];
  const data = BIG.has(spec.dtype) ? flat.map(BigInt) : flat;
  return new ort.Tensor(spec.dtype, kind === Array ? data.map(String) : kind.from(data), shape);
}

function shapeOf(value) {
  const shape = [];
  for (let inner = value; Array.isArray(inner); [inner] = inner) {
    shape.push(inner.length);
  }
  return shape;
}
