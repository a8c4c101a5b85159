// What measures in JavaScript, in Node and in a page alike: a request in, an answer out, as `benchmark/worker.py` gives it.

const BLOCK_MS = 2;
const FEWEST_PAIRS = 8;
const MOST_SAMPLES = 1000;
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

// ort: onnxruntime; load(path): what a session is made from; now(): ms; options: of sessions.
// resolution: of now(), in ms; a sample takes as many runs as make it at least 20 times that.
export function makeWorker({ ort, load, now, options, resolution }) {
  const references = new Map();

  async function open(path, inputs) {
    const session = await ort.InferenceSession.create(await load(path), options);
    const feeds = {};
    for (const [name, { type, dims, data }] of Object.entries(inputs)) {
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      feeds[name] = new ort.Tensor(type, new ARRAYS[type](bytes.buffer), dims);
    }
    const run = () => session.run(feeds);
    for (let i = 0; i < 3; i++) await run(); // warm
    return { run, close: () => session.release() };
  }

  async function openReference(path, inputs) {
    if (!references.has(path)) references.set(path, await open(path, inputs));
    return references.get(path);
  }

  async function timeBlock(run, count) {
    const start = now();
    for (let i = 0; i < count; i++) await run();
    return (now() - start) / count;
  }

  async function probeMs(run) {
    let best = Infinity;
    for (let i = 0; i < 5; i++) {
      let count = 1;
      let each = await timeBlock(run, count);
      while (each * count < BLOCK_MS) {
        count *= 2;
        each = await timeBlock(run, count);
      }
      best = Math.min(best, each);
    }
    return best;
  }

  async function pair({ model, inputs, references: paths, reference_ms: ms, seconds }) {
    const own = await open(model, inputs[model]);
    const middle = Math.floor(paths.length / 2);
    const beside = await openReference(paths[middle], inputs[paths[middle]]);
    const cost = await probeMs(own.run);
    const estimate = (ms[middle] * cost) / (await probeMs(beside.run));
    const distance = ms.map((one) => Math.abs(Math.log(one / estimate)));
    const nearest = distance.indexOf(Math.min(...distance));
    const reference = await openReference(paths[nearest], inputs[paths[nearest]]);
    const counts = [cost, await probeMs(reference.run)].map((one) => Math.max(1, Math.round(BLOCK_MS / one)));
    const blocks = [];
    const end = now() + seconds * 1000;
    while (blocks.length < FEWEST_PAIRS || now() < end) {
      const block = [0, 0];
      for (const side of blocks.length % 2 ? [1, 0] : [0, 1]) {
        block[side] = Math.round(1e6 * (await timeBlock(side ? reference.run : own.run, counts[side])));
      }
      blocks.push(block);
    }
    await own.close();
    return { nearest, blocks_ns: blocks, each: "mean" };
  }

  async function probe({ model, inputs }) {
    const own = await open(model, inputs[model]);
    const ns = Math.round(1e6 * (await probeMs(own.run)));
    await own.close();
    return { ns };
  }

  async function time({ model, inputs, seconds, repeats }) {
    const samples = [];
    let runs = 1;
    for (let repeat = 0; repeat < repeats; repeat++) {
      const own = await open(model, inputs[model]);
      const cost = await probeMs(own.run);
      runs = Math.max(1, Math.ceil((20 * resolution) / cost));
      const each = [];
      const span = (seconds * 1000) / repeats;
      const skipped = Math.max(0, Math.round(span / (cost * runs) / MOST_SAMPLES) - 1);
      const end = now() + span;
      while (each.length < 5 || now() < end) {
        for (let i = 0; i < skipped; i++) await own.run();
        each.push(Math.round(1e6 * (await timeBlock(own.run, runs))));
      }
      samples.push(each);
      await own.close();
    }
    return { samples_ns: samples, runs_a_sample: runs };
  }

  // Under throttling pauses come in chunks: only a mean over a long window, after as long a warm-up, is sound.
  async function timeWindows({ model, inputs, window_s: window, repeats }) {
    const own = await open(model, inputs[model]);
    await timeFor(own.run, window);
    const samples = [];
    for (let repeat = 0; repeat < repeats; repeat++) samples.push([Math.round(1e6 * (await timeFor(own.run, window)))]);
    await own.close();
    return { samples_ns: samples, means: true, note: `means over ${window} s after as much warm-up` };
  }

  async function timeFor(run, seconds) {
    const start = now();
    let runs = 0;
    while (now() - start < seconds * 1000) {
      await run();
      runs++;
    }
    return (now() - start) / runs;
  }

  async function run({ model, inputs }) {
    const own = await open(model, inputs[model]);
    const outputs = await own.run();
    const told = Object.entries(outputs).map(([name, one]) => [name, { dims: one.dims, data: Array.from(one.data, Number) }]);
    await own.close();
    return { outputs: Object.fromEntries(told) };
  }

  const answers = { pair, probe, time, windows: timeWindows, run };
  return async (request) => {
    try {
      return await answers[request.do](request);
    } catch (error) {
      return { error: `onnxruntime cannot run ${request.model}: ${String(error.message ?? error).split(/\s+/).join(" ")}` };
    }
  };
}
