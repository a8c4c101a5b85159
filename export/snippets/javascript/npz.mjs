// Reading golden.npz.

// Raw bytes of every array, by its name: an .npz is a zip of .npy files.
export async function readNpz(bytes) {
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
