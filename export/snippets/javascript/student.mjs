// What an app in JavaScript needs of a student, in Node and in a page alike: copy `predict`, `fromPixels` and
// `nameOutput` into it.
import { readNpz } from "./npz.mjs";

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};
const SHOWN = 8; // values of a long vector

// inputs: {name: {data: a typed array, shape: [batch, …]}}. Gives the first output: {data, shape, unlike}; unlike: for every
// row whether it is unlike anything the student was taught, so that its answer means little (a student without a guard: null).
export async function predict(ort, session, manifest, inputs) {
  const feeds = {};
  for (const { name, dtype } of manifest.inputs) {
    const { data, shape } = inputs[name];
    feeds[name] = new ort.Tensor(dtype, data, shape);
  }
  const outputs = await session.run(feeds);
  const { data, dims } = outputs[manifest.outputs[0].name];
  const { guard } = manifest;
  return { data, shape: dims, unlike: guard ? Array.from(outputs[guard.output].data, (v) => v > guard.above) : null };
}

// Decoded pixels, a row after the other, as the student's input, a batch of one; channels: 1, 3 or 4 (the fourth is dropped).
export function fromPixels({ data, height, width, channels }, manifest) {
  const { picture } = manifest;
  if (!picture) throw new Error("this student takes no pictures: its inputs are in manifest.json");
  for (const [side, found, name] of [[picture.height, height, "high"], [picture.width, width, "wide"]]) {
    if (side !== null && side !== found)
      throw new Error(`the picture is ${found} pixels ${name}; this student takes ${side}. Resize it as its data were`);
  }
  const [{ name, dtype }] = manifest.inputs;
  const values = new ARRAYS[dtype](height * width * picture.channels);
  for (let i = 0; i < height * width; i++) {
    const rgb = [0, 1, 2].map((c) => data[i * channels + (channels < 3 ? 0 : c)]);
    const grey = (19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16; // the weights of ITU-R 601
    for (let c = 0; c < picture.channels; c++) {
      const value = ((picture.channels === 1 ? grey : rgb[c]) * picture.white) / 255;
      const place = picture.layout === "chw" ? c * height * width + i : i * picture.channels + c;
      values[place] = dtype === "uint8" ? Math.round(value) : value;
    }
  }
  const shapes = { hwc: [height, width, picture.channels], chw: [picture.channels, height, width], hw: [height, width] };
  return { [name]: { data: values, shape: [1, ...shapes[picture.layout]] } };
}

// The bytes of a picture file as a Blob, without EXIF notes if it is a JPEG: a browser would turn it as the camera noted, which training did not.
export function dropExif(bytes) {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return new Blob([bytes]);
  const parts = [bytes.subarray(0, 2)];
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const end = at + 2 + 256 * bytes[at + 2] + bytes[at + 3];
    if (bytes[at + 1] !== 0xe1) parts.push(bytes.subarray(at, end));
    at = end;
  }
  return new Blob([...parts, bytes.subarray(at)]);
}

// One row of outputs in words.
export function nameOutput(row, manifest) {
  const { classes, kind } = manifest;
  if (!classes) {
    const values = Array.from(row, (v) => Number(v.toPrecision(6)));
    const rest = row.length > SHOWN ? `, … (${row.length} values)` : "";
    return "value " + values.slice(0, SHOWN).join(", ") + rest;
  }
  if (kind === "multilabel") return "labels " + classes.filter((_, i) => row[i] > 0).join(", ");
  return "class " + classes[row.indexOf(Math.max(...row))];
}

// What is to be said beside the first row's answer.
export function sayUnlike({ unlike }) {
  return unlike?.[0] ? "unlike anything it was taught" : "";
}

export function firstRow({ data, shape }) {
  return Array.from(data.slice(0, data.length / shape[0]), Number);
}

// The golden pair: {inputs, outputs} by name, the tolerance, and the texts of a student of texts. bytes: of golden.npz;
// golden: golden.json.
export async function readGolden(bytes, golden) {
  const arrays = await readNpz(bytes);
  const take = (side) =>
    Object.fromEntries(
      Object.entries(golden[side]).map(([name, { key, dtype, shape }]) => [
        name,
        { data: new ARRAYS[dtype](arrays[key].slice().buffer), shape },
      ]),
    );
  return { inputs: take("inputs"), outputs: take("outputs"), tolerance: golden.tolerance, texts: golden.texts };
}

// Whether this machine gives what the student was shipped with.
export async function checkGolden(ort, session, manifest, { inputs, outputs, tolerance }) {
  const found = await predict(ort, session, manifest, inputs);
  const expected = outputs[manifest.outputs[0].name].data;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const off = Math.abs(Number(found.data[i]) - Number(expected[i]));
    largest = Number.isNaN(largest) || off <= largest ? largest : off; // NaN is kept, and fails
  }
  const good = found.data.length === expected.length && largest <= tolerance;
  const said = `golden check: ${good ? "ok" : "FAILED"} (off by ${largest.toPrecision(3)}, allowed ${tolerance.toPrecision(3)})`;
  return { good, said, found };
}
