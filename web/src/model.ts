import engineUrl from "../generated/engine.wasm?url";
import isic2018Url from "../generated/isic2018.egeu?url";
import kvasirUrl from "../generated/kvasir.egeu?url";
import metadata from "../generated/metadata.json";
import type { DecodedImage } from "./image";
import type { Prediction, Reply, Request } from "./worker";
import EngineWorker from "./worker?worker&inline";

export type { Prediction };

const URLS = { isic2018: isic2018Url, kvasir: kvasirUrl };

/** Names of the weights that come with the page. */
export type Weights = keyof typeof URLS;

/** The network could not be fetched or started. */
export class LoadError extends Error {}

const workers: Partial<Record<Weights, Promise<Worker>>> = {};

/** Load the network once per weights, each into a worker. */
export function load(weights: Weights): Promise<Worker> {
  return (workers[weights] ??= start(weights).catch((error) => {
    delete workers[weights]; // the next image tries again
    throw new LoadError(weights, { cause: error });
  }));
}

async function start(name: Weights): Promise<Worker> {
  const [code, weights] = await Promise.all([engineUrl, URLS[name]].map(download));
  const module = await WebAssembly.compile(code);
  // Inline, because a worker with an address of its own would not be under the page's CSP.
  const worker = new EngineWorker();
  await ask(worker, { module, weights, quality: metadata[name].quality }, [weights]);
  return worker;
}

async function download(url: string): Promise<ArrayBuffer> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: HTTP status ${response.status}`);
  return response.arrayBuffer();
}

/** Segment an image. Wait for the result before segmenting the next. */
export async function segment(
  { width, height, canvas }: DecodedImage,
  weights: Weights,
): Promise<Prediction> {
  const worker = await load(weights);
  const rgba = canvas.getContext("2d")!.getImageData(0, 0, width, height).data;
  return (await ask(worker, { rgba, height, width }, [rgba.buffer]))!;
}

function ask(worker: Worker, request: Request, transfer: Transferable[]) {
  return new Promise<Prediction | undefined>((resolve, reject) => {
    worker.onmessage = ({ data: { prediction, error } }: MessageEvent<Reply>) =>
      error === undefined ? resolve(prediction) : reject(new Error(error));
    worker.onerror = reject;
    worker.postMessage(request, transfer);
  });
}
