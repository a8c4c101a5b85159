// node node.mjs SETTINGS: a JSON line in, a JSON line out. SETTINGS: {modules: folder with node_modules, threads}.
// It ends when its input does.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { performance } from "node:perf_hooks";
import { makeWorker } from "./answers.mjs";

const settings = JSON.parse(process.argv[2]);
const ort = createRequire(settings.modules + "/package.json")("onnxruntime-node");
const answer = makeWorker({
  ort,
  load: (path) => path,
  now: () => performance.now(),
  options: {
    executionProviders: ["cpu"],
    intraOpNumThreads: settings.threads,
    interOpNumThreads: 1,
    logSeverityLevel: 4,
  },
  resolution: 0.0001,
});
const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit(0)); // the caller is gone or has had enough
let before = Promise.resolve();
lines.on("line", (line) => {
  before = before.then(async () => process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + "\n"));
});
