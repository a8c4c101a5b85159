// What an app in JavaScript needs of a student, in Node and in a page alike: copy `predict` and `nameOutput` into it.

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

// inputs: {name: {data: a typed array, shape: [batch, …]}}. Gives the first output: {data, shape}.
export async function predict(ort, session, manifest, inputs) {
  const feeds = {};
  for (const { name, dtype } of manifest.inputs) {
    const { data, shape } = inputs[name];
    feeds[name] = new ort.Tensor(dtype, data, shape);
  }
  const output = (await session.run(feeds))[manifest.outputs[0].name];
  return { data: output.data, shape: output.dims };
}

// One row of outputs in words.
export function nameOutput(row, manifest) {
  const { classes, kind } = manifest;
  if (!classes) return "value " + Array.from(row, (v) => Number(v.toPrecision(6))).join(", ");
  if (kind === "multilabel") return "labels " + classes.filter((_, i) => row[i] > 0).join(", ");
  return "class " + classes[row.indexOf(Math.max(...row))];
}

export function firstRow({ data, shape }) {
  return Array.from(data.slice(0, data.length / shape[0]), Number);
}

// The golden pair: {inputs, outputs} by name, and the tolerance. bytes: of golden.npz; golden: golden.json.
export async function readGolden(bytes, golden) {
  const arrays = await readNpz(bytes);
  const take = (side) =>
    Object.fromEntries(
      Object.entries(golden[side]).map(([name, { key, dtype, shape }]) => [
        name,
        { data: new ARRAYS[dtype](arrays[key].slice().buffer), shape },
      ]),
    );
  return { inputs: take("inputs"), outputs: take("outputs"), tolerance: golden.tolerance };
}

// Whether this machine gives what the student was shipped with.
export async function checkGolden(ort, session, manifest, { inputs, outputs, tolerance }) {
  const found = await predict(ort, session, manifest, inputs);
  const expected = outputs[manifest.outputs[0].name].data;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const off = Math.abs(Number(found.data[i]) - Number(expected[i]));
    largest = off <= largest ? largest : off; // NaN is kept, and fails
  }
  const good = found.data.length === expected.length && largest <= tolerance;
  const said = `golden check: ${good ? "ok" : "FAILED"} (off by ${largest.toPrecision(3)}, allowed ${tolerance.toPrecision(3)})`;
  return { good, said, found };
}

// Raw bytes of every array, by its name: an .npz is a zip of .npy files.
async function readNpz(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--; // end of the central directory
  const arrays = {};
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const method = view.getUint16(at + 10, true);
    const size = view.getUint32(at + 20, true);
    const [nameLength, extra, comment] = [28, 30, 32].map((place) => view.getUint16(at + place, true));
    const local = view.getUint32(at + 42, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const packed = bytes.subarray(start, start + size);
    arrays[name.replace(/\.npy$/, "")] = cutHeader(method === 0 ? packed : await inflate(packed));
    at += 46 + nameLength + extra + comment;
  }
  return arrays;
}

async function inflate(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function cutHeader(npy) {
  const view = new DataView(npy.buffer, npy.byteOffset, npy.byteLength);
  const [length, from] = npy[6] === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  return npy.subarray(from + length);
}
