// A picture file as its pixels are stored, by sharp: turned by nothing, not resized. A page has `createImageBitmap` instead.
import sharp from "sharp";

export async function decode(path) {
  const image = sharp(path).removeAlpha().toColourspace("srgb").raw();
  const { data, info } = await image.toBuffer({ resolveWithObject: true });
  return { data, height: info.height, width: info.width, channels: info.channels };
}
