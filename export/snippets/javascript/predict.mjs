// Run the student in this folder with onnxruntime-node alone (Node 20.12 or newer):
//
//     npm install --ignore-scripts --no-package-lock && node predict.mjs
//
// Prints whether this machine gives the outputs the student was shipped with, then what it predicts for the first golden
// example.
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";
import { checkGolden, firstRow, nameOutput, readGolden } from "./student.mjs";

const folder = new URL("../../", import.meta.url);
const read = (name) => readFile(new URL(name, folder));
const manifest = JSON.parse(await read("manifest.json"));
const session = await ort.InferenceSession.create(new Uint8Array(await read("model.onnx")));
const golden = await readGolden(new Uint8Array(await read("golden.npz")), JSON.parse(await read("golden.json")));
const { good, said, found } = await checkGolden(ort, session, manifest, golden);
console.log(said);
console.log(`predicted: ${nameOutput(firstRow(found), manifest)}`);
process.exit(good ? 0 : 1);
