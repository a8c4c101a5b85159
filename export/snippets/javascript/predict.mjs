// Run the student in this folder with onnxruntime-node and, for pictures, sharp (Node 20.12 or newer). After
// `npm install --ignore-scripts --no-package-lock`:
//
//     node predict.mjs              the golden check, then what the first golden example is
//     node predict.mjs photo.png    what a picture is
//
// The golden check tells whether this machine gives the outputs that the student was shipped with.
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";
import { checkGolden, firstRow, fromPixels, nameOutput, predict, readGolden, sayUnlike } from "./student.mjs";

const folder = new URL("../../", import.meta.url);
const read = (name) => readFile(new URL(name, folder));
const manifest = JSON.parse(await read("manifest.json"));
const session = await ort.InferenceSession.create(new Uint8Array(await read("model.onnx")));
const pictures = process.argv.slice(2);
process.exit(pictures.length === 0 ? await check() : await classify());

async function check() {
  const golden = await readGolden(new Uint8Array(await read("golden.npz")), JSON.parse(await read("golden.json")));
  const { good, said, found } = await checkGolden(ort, session, manifest, golden);
  console.log(said);
  console.log(`predicted: ${say(found)}`);
  return good ? 0 : 1;
}

function say(found) {
  const unlike = sayUnlike(found);
  return nameOutput(firstRow(found), manifest) + (unlike && ` (${unlike})`);
}

async function classify() {
  const { decode } = await import("./decode.mjs"); // pictures alone need sharp
  for (const path of pictures) {
    try {
      const inputs = fromPixels(await decode(path), manifest);
      console.log(`${path}: ${say(await predict(ort, session, manifest, inputs))}`);
    } catch (error) {
      console.error(`${path}: ${error.message}`);
      return 1;
    }
  }
  return 0;
}
