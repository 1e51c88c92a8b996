import type { InferenceSession } from "onnxruntime-web/wasm";
import gpuWasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import facts from "../generated/facts.json";
import graphUrl from "../generated/photo.onnx?url";
import type { Photo } from "./photo";

/** What computes: the processor, or the graphics processor. */
export type Engine = "wasm" | "webgpu";

/** What the network says of a photo: the lesion's probability in each pixel, and a Dice score. */
export interface Answer {
  probability: Float32Array;
  quality: number;
  engine: Engine;
  milliseconds: number;
}

/** The runtime is a file of its own: the page is there before it, and WebGPU's only if wanted. */
const runtime = (engine: Engine) =>
  engine === "wasm" ? import("onnxruntime-web/wasm") : import("onnxruntime-web/webgpu");
const sessions: Partial<Record<Engine, Promise<InferenceSession>>> = {};

/** Load runtime and network, once. */
export const load = (engine: Engine): Promise<InferenceSession> =>
  (sessions[engine] ??= open(engine));

async function open(engine: Engine): Promise<InferenceSession> {
  const { env, InferenceSession, Tensor } = await runtime(engine);
  env.logLevel = "error"; // it warns that WebGPU leaves some nodes to the processor
  env.wasm.numThreads = 1; // more would need headers that a static host lacks
  env.wasm.wasmPaths = { wasm: engine === "wasm" ? wasmUrl : gpuWasmUrl };
  const gpu = { name: "webgpu", forceCpuNodeNames: facts.not_for_webgpu } as const;
  const network = await InferenceSession.create(graphUrl, {
    executionProviders: [engine === "wasm" ? "wasm" : gpu],
  });
  // The first run takes many times as long as the next: no photo shall wait for it.
  await network.run({ photo: new Tensor("uint8", new Uint8Array(3), [1, 1, 3]) });
  return network;
}

/** Run the network, which has pre- and postprocessing inside. */
export async function segment(photo: Photo, engine: Engine): Promise<Answer> {
  const [network, { Tensor }] = await Promise.all([load(engine), runtime(engine)]);
  const start = performance.now();
  const input = new Tensor("uint8", photo.rgb, [photo.height, photo.width, 3]);
  const { probability, scores } = await network.run({ photo: input });
  return {
    probability: probability.data as Float32Array,
    quality: expectDice(scores.data as Float32Array),
    engine,
    milliseconds: performance.now() - start,
  };
}

/** The Dice score to be expected; `egeunet.inference.quality` says why. */
function expectDice(scores: Float32Array): number {
  let total = 0;
  let square = 0;
  for (const p of scores) {
    total += p;
    square += p * p;
  }
  const agreement = total > 0 ? Math.min(square / total, 1) : 0;
  const [intercept, sureness, size] = facts.quality;
  const sum =
    intercept +
    sureness * Math.log(1.01 - agreement) +
    size * Math.log(0.001 + total / scores.length);
  return 1 / (1 + Math.exp(-sum));
}
