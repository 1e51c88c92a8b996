import engineUrl from "../generated/engine.wasm?url";
import weightsUrl from "../generated/weights.egeu?url";
import type { DecodedImage } from "./image";
import type { Prediction, Reply, Request } from "./worker";
import EngineWorker from "./worker?worker&inline";

export type { Prediction };

let worker: Promise<Worker> | undefined;

/** Load the network once, into a worker. */
export const load = (): Promise<Worker> => (worker ??= start());

async function start(): Promise<Worker> {
  const [code, weights] = await Promise.all([engineUrl, weightsUrl].map(download));
  const module = await WebAssembly.compile(code);
  // Inline, because a worker with an address of its own would not be under the page's CSP.
  const worker = new EngineWorker();
  await ask(worker, { module, weights }, [weights]);
  return worker;
}

async function download(url: string): Promise<ArrayBuffer> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: HTTP status ${response.status}`);
  return response.arrayBuffer();
}

/** Segment an image. Wait for the result before segmenting the next. */
export async function segment({ width, height, canvas }: DecodedImage): Promise<Prediction> {
  const worker = await load();
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
