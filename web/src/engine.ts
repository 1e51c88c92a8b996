/** What the C engine exports; `egeunet.h` documents it. Pointers and sizes are in bytes. */
interface Exports {
  memory: WebAssembly.Memory;
  __heap_base: WebAssembly.Global<"i32">;
  egeunet_model_size(blob: number, bytes: number): number;
  egeunet_load(blob: number, bytes: number, memory: number, size: number, model: number): number;
  egeunet_native_size(model: number, height: number, width: number): void;
  egeunet_workspace_size(model: number, height: number, width: number): number;
  egeunet_run(
    model: number, image: number, height: number, width: number,
    logits: number, workspace: number, size: number,
  ): number;
  egeunet_prepare_size(...sides: Sides): number;
  egeunet_prepare(
    rgb: number, height: number, width: number, image: number, outHeight: number, outWidth: number,
    workspace: number, size: number,
  ): number;
  egeunet_resize_size(...sides: Sides): number;
  egeunet_resize(
    map: number, height: number, width: number, out: number, outHeight: number, outWidth: number,
    workspace: number, size: number,
  ): number;
}

type Sides = [height: number, width: number, outHeight: number, outWidth: number];

const ALIGNMENT = 64; // EGEUNET_ALIGNMENT
const PAGE = 65536; // bytes by which memory grows

/** Foreground probability, row-major, at the size of the network and at the size of the image. */
export interface Probabilities {
  scores: Float32Array;
  probability: Float32Array;
}

/** The network in WebAssembly. Its memory holds the weights, then the buffers of one image. */
export class Engine {
  private readonly c: Exports;
  private readonly model: number;
  private readonly height: number;
  private readonly width: number;
  private top: number; // first free byte

  /**
   * Load a model.
   *
   * @param module The engine, compiled.
   * @param weights A weights blob (.egeu).
   */
  constructor(module: WebAssembly.Module, weights: ArrayBuffer) {
    this.c = new WebAssembly.Instance(module).exports as unknown as Exports;
    this.top = this.c.__heap_base.value;
    const result = this.take(8);
    const bytes = weights.byteLength;
    const blob = this.take(bytes);
    new Uint8Array(this.c.memory.buffer).set(new Uint8Array(weights), blob);
    const size = this.c.egeunet_model_size(blob, bytes);
    check(this.c.egeunet_load(blob, bytes, this.take(size), size, result));
    [this.model] = new Uint32Array(this.c.memory.buffer, result, 1);
    this.c.egeunet_native_size(this.model, result, result + 4);
    [this.height, this.width] = new Int32Array(this.c.memory.buffer, result, 2);
  }

  /** Segment an image, given as RGBA bytes (height, width, 4) without transparency. */
  segment(rgba: Uint8ClampedArray, height: number, width: number): Probabilities {
    const start = this.top;
    try {
      const { c, model } = this;
      const own = [this.height, this.width] as const;
      const pixels = this.height * this.width;
      const image = this.take(3 * pixels * 4);
      const logits = this.take(pixels * 4);
      const buffers = this.top;

      const rgb = this.take(3 * height * width);
      let size = c.egeunet_prepare_size(height, width, ...own);
      let workspace = this.take(size);
      dropAlpha(rgba, new Uint8Array(c.memory.buffer, rgb, 3 * height * width));
      check(c.egeunet_prepare(rgb, height, width, image, ...own, workspace, size));

      this.top = buffers;
      size = c.egeunet_workspace_size(model, ...own);
      workspace = this.take(size);
      check(c.egeunet_run(model, image, ...own, logits, workspace, size));

      this.top = buffers;
      const out = this.take(4 * height * width);
      size = c.egeunet_resize_size(...own, height, width);
      workspace = this.take(size);
      const scores = new Float32Array(c.memory.buffer, logits, pixels);
      for (let at = 0; at < pixels; at++) scores[at] = 1 / (1 + Math.exp(-scores[at]));
      check(c.egeunet_resize(logits, ...own, out, height, width, workspace, size));
      const probability = new Float32Array(c.memory.buffer, out, height * width);
      return { scores: scores.slice(), probability: probability.slice() };
    } finally {
      this.top = start;
    }
  }

  /** Reserve memory from `top` on. Views of the memory from before are invalid afterwards. */
  private take(bytes: number): number {
    const start = Math.ceil(this.top / ALIGNMENT) * ALIGNMENT;
    this.top = start + bytes;
    const missing = this.top - this.c.memory.buffer.byteLength;
    if (missing > 0) this.c.memory.grow(Math.ceil(missing / PAGE));
    return start;
  }
}

function check(status: number): void {
  if (status) throw new Error(`engine status ${status}`); // see egeunet_status
}

function dropAlpha(rgba: Uint8ClampedArray, rgb: Uint8Array): void {
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
}
