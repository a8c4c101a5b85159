// From strings to the student's input, in Node and in a page alike: copy `encode` into your app, and from `student.mjs`
// `predict` and `nameOutput`. A tokenizer is `new Tokenizer(tokenizer.json's contents, {})` of @huggingface/tokenizers.

// Texts as the student's input, a batch: ids (texts, longest), each row padded at its end.
export function encode(tokenizer, texts, manifest) {
  const { length, pad, nothing, characters } = manifest.preprocessing;
  const rows = texts.map((text) => {
    const read = [...text.slice(0, 2 * characters)].slice(0, characters).join(""); // of code points; some are two units
    const { ids } = tokenizer.encode(read, { add_special_tokens: false });
    return ids.length ? ids.slice(0, length) : [nothing];
  });
  const longest = Math.max(...rows.map((row) => row.length));
  const data = new BigInt64Array(rows.length * longest).fill(BigInt(pad));
  rows.forEach((row, i) => row.forEach((id, j) => (data[i * longest + j] = BigInt(id))));
  return { input_ids: { data, shape: [rows.length, longest] } };
}

// Which golden texts, counted from 0, get other ids here than where the student was made.
export function findOtherIds(tokenizer, texts, { data, shape }, manifest) {
  const pad = BigInt(manifest.preprocessing.pad);
  const trim = (row) => row.slice(0, row.findLastIndex((id) => id !== pad) + 1).join();
  const [, width] = shape;
  return [...texts.keys()].filter((i) => {
    const found = encode(tokenizer, [texts[i]], manifest).input_ids.data;
    return trim(found) !== trim(data.slice(i * width, (i + 1) * width));
  });
}

// The golden check of the tokenizer, as a word for the golden check of the file: empty where all is well.
export function sayOtherIds(tokenizer, golden, manifest) {
  const [first] = findOtherIds(tokenizer, golden.texts, golden.inputs.input_ids, manifest);
  return first === undefined ? "" : `golden check: FAILED (the tokenizer gives other ids for golden text ${first + 1})`;
}
