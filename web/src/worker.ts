/** The worker of the page: runs the engine, one request at a time. */
import { Engine } from "./engine";

/** The first message loads the network; every other one is an image to segment. */
export type Request =
  | { module: WebAssembly.Module; weights: ArrayBuffer; quality: number[] }
  | { rgba: Uint8ClampedArray; height: number; width: number };

/** The output for one image: probability per pixel, estimated Dice score, computing time. */
export interface Prediction {
  probability: Float32Array;
  quality: number;
  milliseconds: number;
}

/** The answer to a request. */
export type Reply = { prediction?: Prediction; error?: string };

let engine: Engine;
let coefficients: number[]; // of the estimated Dice score

onmessage = ({ data }: MessageEvent<Request>) => {
  try {
    const prediction = answer(data);
    const transfer = prediction ? [prediction.probability.buffer] : [];
    postMessage({ prediction } satisfies Reply, { transfer });
  } catch (error) {
    postMessage({ error: String(error) } satisfies Reply);
  }
};

function answer(request: Request): Prediction | undefined {
  if ("module" in request) {
    engine = new Engine(request.module, request.weights);
    coefficients = request.quality;
    engine.segment(new Uint8ClampedArray(4), 1, 1); // the first run is slower than the next
    return undefined;
  }
  const start = performance.now();
  const { scores, probability } = engine.segment(request.rgba, request.height, request.width);
  const quality = estimateDice(scores);
  return { probability, quality, milliseconds: performance.now() - start };
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
  const [intercept, certainty, size] = coefficients;
  const sum =
    intercept +
    certainty * Math.log(1.01 - agreement) +
    size * Math.log(0.001 + total / scores.length);
  return 1 / (1 + Math.exp(-sum));
}
