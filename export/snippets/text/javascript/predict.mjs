// Run the student of texts in this folder with onnxruntime-node and @huggingface/tokenizers (Node 20.12 or newer). After
// `npm install --ignore-scripts --no-package-lock`:
//
//     node predict.mjs                     the golden check, then what the first golden example is
//     node predict.mjs "a text" "another"  what each text is; of a student of several columns, one text's columns
//
// The golden check tells whether this machine gives the ids and outputs that the student was shipped with.
import { readFile } from "node:fs/promises";
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";
import { checkGolden, firstRow, nameOutput, predict, readGolden, sayUnlike } from "./student.mjs";
import { encode, sayOtherIds } from "./text.mjs";

const folder = new URL("../../", import.meta.url);
const read = (name) => readFile(new URL(name, folder));
const json = async (name) => JSON.parse(await read(name));
const manifest = await json("manifest.json");
const { separator, tokenizer: file } = manifest.preprocessing;
const session = await ort.InferenceSession.create(new Uint8Array(await read("model.onnx")));
const tokenizer = new Tokenizer(await json(file), {});
const given = process.argv.slice(2);
process.exit(given.length === 0 ? await check() : await classify());

async function check() {
  const golden = await readGolden(new Uint8Array(await read("golden.npz")), await json("golden.json"));
  const { good, said, found } = await checkGolden(ort, session, manifest, golden);
  const others = sayOtherIds(tokenizer, golden, manifest);
  console.log(others || said);
  console.log(`predicted: ${say(found)}`);
  return good && !others ? 0 : 1;
}

async function classify() {
  const texts = separator == null ? given : [given.join(separator)]; // columns are one text
  const names = separator == null ? given : [given.join(" | ")];
  for (const [i, text] of texts.entries()) {
    console.log(`${names[i]}: ${say(await predict(ort, session, manifest, encode(tokenizer, [text], manifest)))}`);
  }
  return 0;
}

function say(found) {
  const unlike = sayUnlike(found);
  return nameOutput(firstRow(found), manifest) + (unlike && ` (${unlike})`);
}
