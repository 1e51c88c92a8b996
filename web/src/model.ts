import type { InferenceSession } from "onnxruntime-web/wasm";
import gpuWasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import metadata from "../generated/metadata.json";
import graphUrl from "../generated/photo.onnx?url";
import type { DecodedImage } from "./image";

/** Where the network runs: WebAssembly on the CPU, or the GPU. */
export type Engine = "wasm" | "webgpu";

/** The output for one image: probability per pixel, and the estimated Dice score. */
export interface Prediction {
  probability: Float32Array;
  quality: number;
  engine: Engine;
  milliseconds: number;
}

/** The runtime loads after the page; the WebGPU build only when it is chosen. */
const runtime = (engine: Engine) =>
  engine === "wasm" ? import("onnxruntime-web/wasm") : import("onnxruntime-web/webgpu");
const sessions: Partial<Record<Engine, Promise<InferenceSession>>> = {};

/** Load the runtime and the network once per engine. */
export const loadSession = (engine: Engine): Promise<InferenceSession> =>
  (sessions[engine] ??= createSession(engine));

async function createSession(engine: Engine): Promise<InferenceSession> {
  const { env, InferenceSession, Tensor } = await runtime(engine);
  env.logLevel = "error"; // WebGPU warns about nodes that run on the CPU
  env.wasm.numThreads = 1; // more would need COOP and COEP headers, which static hosts do not send
  env.wasm.wasmPaths = { wasm: engine === "wasm" ? wasmUrl : gpuWasmUrl };
  const gpu = { name: "webgpu", forceCpuNodeNames: metadata.not_for_webgpu } as const;
  const network = await InferenceSession.create(graphUrl, {
    executionProviders: [engine === "wasm" ? "wasm" : gpu],
  });
  // Warm up: the first run is many times slower than the next.
  await network.run({ photo: new Tensor("uint8", new Uint8Array(3), [1, 1, 3]) });
  return network;
}

/** Run the network; its graph contains pre- and postprocessing. */
export async function segment(image: DecodedImage, engine: Engine): Promise<Prediction> {
  const [network, { Tensor }] = await Promise.all([loadSession(engine), runtime(engine)]);
  const start = performance.now();
  const input = new Tensor("uint8", image.rgb, [image.height, image.width, 3]);
  const { probability, scores } = await network.run({ photo: input });
  return {
    probability: probability.data as Float32Array,
    quality: estimateDice(scores.data as Float32Array),
    engine,
    milliseconds: performance.now() - start,
  };
}

/** Estimate the Dice score with the logistic model of `egeunet.inference.quality`. */
function estimateDice(scores: Float32Array): number {
  let total = 0;
  let square = 0;
  for (const p of scores) {
    total += p;
    square += p * p;
  }
  const agreement = total > 0 ? Math.min(square / total, 1) : 0;
  const [intercept, certainty, size] = metadata.quality;
  const sum =
    intercept +
    certainty * Math.log(1.01 - agreement) +
    size * Math.log(0.001 + total / scores.length);
  return 1 / (1 + Math.exp(-sum));
}
