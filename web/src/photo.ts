/** A decoded photo: RGB bytes, row by row, and the same as a canvas. */
export interface Photo {
  width: number;
  height: number;
  rgb: Uint8Array;
  canvas: HTMLCanvasElement;
}

/** What cannot be helped by trying again. */
export class NotAPhoto extends Error {}
export class TooLarge extends Error {}

export const MOST_MILLION = 64;
/** The largest canvas that phones have; a photo above it is reduced. */
const CANVAS = 4096 * 4096;

/** Decode a file: upright, its own colours, transparent pixels laid on white. */
export async function decode(file: Blob): Promise<Photo> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new NotAPhoto();
  }
  const pixels = bitmap.width * bitmap.height;
  if (pixels > MOST_MILLION * 1e6) {
    bitmap.close();
    throw new TooLarge();
  }
  const scale = Math.min(1, Math.sqrt(CANVAS / pixels));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(bitmap.width * scale));
  canvas.height = Math.max(1, Math.floor(bitmap.height * scale));
  const { width, height } = canvas;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return { width, height, rgb, canvas };
}
