// What an app in JavaScript needs to let a student write, in Node and in a page alike: copy it, `stream` first.
// student: {ort, session, tokenizer, manifest}; tokenizer: of the package @huggingface/tokenizers.

const UNFINISHED = /\ufffd+$/; // what the bytes of half a character are decoded as

// Ids of a prompt: the start token, then its own.
export function encode({ tokenizer, manifest }, prompt) {
  const { start, context } = manifest.preprocessing;
  const ids = [start, ...tokenizer.encode(prompt, { add_special_tokens: false }).ids];
  if (ids.length > context) throw new Error(`the prompt has ${ids.length} tokens with the start; this student holds ${context}`);
  return ids;
}

export function decode({ tokenizer }, ids) {
  return ids.length ? tokenizer.decode(ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false }) : "";
}

// Logits of the token after `ids`, which follow `past` (tensors by input name, null at the start); and the past with them.
// Keys and values of what was read are kept: a further token reads one token, not the whole text.
export async function step({ ort, session, manifest }, ids, past = null) {
  const { heads, head } = manifest.preprocessing;
  const known = past ?? Object.fromEntries(pastNames(manifest).map((name) => [name, new ort.Tensor("float32", [], [1, heads, 0, head])]));
  const start = past ? Object.values(past)[0].dims[2] : 0;
  const row = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
  const outputs = await session.run({ input_ids: row(ids), position_ids: row(ids.map((_, i) => start + i)), ...known });
  const [logits, ...presents] = manifest.outputs.map(({ name }) => outputs[name]);
  const vocabulary = logits.dims[2];
  const present = Object.fromEntries(pastNames(manifest).map((name, i) => [name, presents[i]]));
  return { logits: logits.data.slice(-vocabulary), past: present };
}

function pastNames({ inputs }) {
  return inputs.map(({ name }) => name).filter((name) => !["input_ids", "position_ids"].includes(name));
}

// Ids that go on from `ids`, until the end token, so many, or a full context.
export async function* generate(student, ids, { tokens = 64, temperature = 0, seed = 0 } = {}) {
  const { context, end } = student.manifest.preprocessing;
  const dice = draw(seed);
  let { logits, past } = await step(student, ids);
  for (let left = Math.min(tokens, context - ids.length + 1); left > 0; left--) {
    const token = pick(logits, temperature, dice());
    if (token === end) return;
    yield token;
    if (left > 1) ({ logits, past } = await step(student, [token], past));
  }
}

// The text that goes on from a prompt, piece by piece, each of whole characters.
export async function* stream(student, prompt, options) {
  const told = [];
  let sent = 0;
  for await (const token of generate(student, encode(student, prompt), options)) {
    told.push(token);
    const text = decode(student, told).replace(UNFINISHED, "");
    if (text.length > sent) yield text.slice(sent);
    sent = Math.max(sent, text.length);
  }
  const rest = decode(student, told).slice(sent);
  if (rest) yield rest;
}

// The likeliest token, or at a temperature above 0 the one in whose share of 0..1 the number falls.
export function pick(logits, temperature, number) {
  const top = logits.reduce((best, value, i) => (value > logits[best] ? i : best), 0);
  if (temperature <= 0) return top;
  const ends = [];
  let sum = 0;
  for (const value of logits) ends.push((sum += Math.exp((value - logits[top]) / temperature)));
  const found = ends.findIndex((end) => end > number * sum);
  return found < 0 ? ends.length - 1 : found;
}

// Numbers of 0..1, the same as in Python: the generator mulberry32.
export function draw(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Whether this machine reads and goes on from the golden prompts as where the student was made: {good, said}.
// A token may differ only where two are equally likely, as far as the tolerance tells. arrays: golden.npz, by `readNpz`.
export async function checkGolden(student, golden, arrays) {
  const { tolerance, prompts } = golden;
  const { context } = student.manifest.preprocessing;
  let [largest, same, good] = [0, 0, true];
  for (const { prompt, ids, logits: entry, continuation } of prompts) {
    const wanted = new Float32Array(arrays[entry.key].slice().buffer);
    let { logits, past } = await step(student, ids);
    good &&= String(encode(student, prompt)) === String(ids) && logits.length === wanted.length;
    for (let i = 0; i < wanted.length; i++) {
      const off = Math.abs(logits[i] - wanted[i]);
      largest = Number.isNaN(largest) || off <= largest ? largest : off; // NaN is kept, and fails
    }
    let [alike, length] = [true, ids.length];
    for (const token of continuation) {
      const likeliest = pick(logits, 0);
      good &&= logits[token] >= logits[likeliest] - 2 * tolerance;
      alike &&= likeliest === token;
      if (length++ < context) ({ logits, past } = await step(student, [token], past));
    }
    same += alike;
  }
  good &&= largest <= tolerance;
  const said = `off by ${largest.toPrecision(3)}, allowed ${tolerance.toPrecision(3)}; the same text for ${same} of ${prompts.length} prompts`;
  return { good, said: `golden check: ${good ? "ok" : "FAILED"} (${said})` };
}
