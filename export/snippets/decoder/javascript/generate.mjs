// Let the student in this folder write, with onnxruntime-node and @huggingface/tokenizers (Node 20.12 or newer). After
// `npm install --ignore-scripts --no-package-lock`:
//
//     node generate.mjs                             the golden check, then the first golden prompt goes on
//     node generate.mjs "Once upon a time"          goes on from a prompt, and prints as it writes
//         --tokens 100 --temperature 0.8 --seed 1   at most so many tokens; 0 takes the likeliest; the same seed, the same text
import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";
import { checkGolden, stream } from "./decoder.mjs";
import { readNpz } from "./npz.mjs";

const folder = new URL("../../", import.meta.url);
const read = async (name) => new Uint8Array(await readFile(new URL(name, folder)));
const json = async (name) => JSON.parse(await readFile(new URL(name, folder)));

const options = { tokens: { type: "string" }, temperature: { type: "string" }, seed: { type: "string" } };
const { values, positionals } = parseArgs({ options, allowPositionals: true });
const numbers = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Number(value)]));
const manifest = await json("manifest.json");
const tokenizer = new Tokenizer(await json(manifest.preprocessing.tokenizer), {});
const session = await ort.InferenceSession.create(await read("model.onnx"));
const student = { ort, session, tokenizer, manifest };
let [good, prompt] = [true, positionals[0]];
if (prompt === undefined) {
  const golden = await json("golden.json");
  const found = await checkGolden(student, golden, await readNpz(await read("golden.npz")));
  console.log(found.said);
  [good, prompt] = [found.good, golden.prompts[0].prompt];
}
try {
  process.stdout.write(prompt);
  for await (const piece of stream(student, prompt, numbers)) process.stdout.write(piece);
  process.stdout.write("\n");
} catch (error) {
  console.error(`\n${error.message}`);
  good = false;
}
process.exitCode = good ? 0 : 1;
