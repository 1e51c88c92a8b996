/** Probability of the lesion per pixel, row-major, at the size of the image. */
export interface ProbabilityMap {
  values: Float32Array;
  width: number;
  height: number;
}

/** The green of Okabe and Ito, as `egeunet.inference.visualize` has it. */
const COLOR = [0, 158, 115];

/** Count the pixels of the mask and return their bounding box (x0, y0, x1, y1), null if empty. */
export function measure(map: ProbabilityMap, threshold: number) {
  let pixels = 0;
  let [x0, y0, x1, y1] = [map.width, map.height, 0, 0];
  for (let y = 0, at = 0; y < map.height; y++) {
    for (let x = 0; x < map.width; x++, at++) {
      if (map.values[at] < threshold) continue;
      pixels++;
      x0 = Math.min(x0, x);
      x1 = Math.max(x1, x + 1);
      y0 = Math.min(y0, y);
      y1 = y + 1;
    }
  }
  return { pixels, box: pixels ? [x0, y0, x1, y1] : null };
}

/** Draw the mask: white inside, black outside. */
export function drawMask(map: ProbabilityMap, threshold: number): HTMLCanvasElement {
  return paint(map.width, map.height, (data) => {
    for (let at = 0; at < map.values.length; at++) {
      data.fill(map.values[at] >= threshold ? 255 : 0, 4 * at, 4 * at + 3);
      data[4 * at + 3] = 255;
    }
  });
}

/** Draw tint and contour of the mask on a transparent canvas, resized by `scale`. */
export function drawOverlay(
  map: ProbabilityMap,
  threshold: number,
  opacity: number,
  scale = 1,
): HTMLCanvasElement {
  const width = toSide(map.width * scale);
  const height = toSide(map.height * scale);
  const inside = new Uint8Array(width * height);
  for (let y = 0, at = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * map.height) / height) * map.width;
    for (let x = 0; x < width; x++, at++) {
      const column = Math.floor(((x + 0.5) * map.width) / width);
      inside[at] = map.values[row + column] >= threshold ? 1 : 0;
    }
  }
  const thickness = Math.max(1, Math.round(Math.max(width, height) / 400));
  const tint = Math.round(255 * opacity);
  return paint(width, height, (data) => {
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        if (!inside[at]) continue;
        const edge =
          !inside[at - Math.min(x, thickness)] ||
          !inside[at + Math.min(width - 1 - x, thickness)] ||
          !inside[at - Math.min(y, thickness) * width] ||
          !inside[at + Math.min(height - 1 - y, thickness) * width];
        data[4 * at] = COLOR[0];
        data[4 * at + 1] = COLOR[1];
        data[4 * at + 2] = COLOR[2];
        data[4 * at + 3] = edge ? 255 : tint;
      }
    }
  });
}

/** Round a length to a valid canvas side. */
export const toSide = (length: number) => Math.max(1, Math.round(length));

function paint(
  width: number,
  height: number,
  fill: (data: Uint8ClampedArray) => void,
): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(width, height);
  fill(image.data);
  context.putImageData(image, 0, 0);
  return canvas;
}
