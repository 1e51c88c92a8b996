/** A decoded image as an opaque canvas. */
export interface DecodedImage {
  width: number;
  height: number;
  canvas: HTMLCanvasElement;
}

/** The browser cannot decode the file. */
export class DecodeError extends Error {}
/** The image has more than MAX_MEGAPIXELS. */
export class ImageTooLargeError extends Error {}

export const MAX_MEGAPIXELS = 64;
/** Largest canvas of iOS Safari, in pixels; larger images are downscaled to it. */
const MAX_CANVAS_PIXELS = 4096 * 4096;

/** Decode a file: EXIF orientation applied, no color conversion, transparency on white. */
export async function decode(file: Blob): Promise<DecodedImage> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new DecodeError();
  }
  const pixels = bitmap.width * bitmap.height;
  if (pixels > MAX_MEGAPIXELS * 1e6) {
    bitmap.close();
    throw new ImageTooLargeError();
  }
  const scale = Math.min(1, Math.sqrt(MAX_CANVAS_PIXELS / pixels));
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
  return { width, height, canvas };
}
