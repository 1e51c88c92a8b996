import metadata from "../generated/metadata.json";
import sampleUrl from "../generated/sample.jpg?url";
import { CameraError, takePhoto } from "./camera";
import { type DecodedImage, decode, DecodeError, ImageTooLargeError, MAX_MEGAPIXELS } from "./image";
import { drawMask, drawOverlay, measure, type ProbabilityMap, toSide } from "./mask";
import { load, LoadError, type Prediction, segment, type Weights } from "./model";
import { type Point, Ruler } from "./ruler";
import { text } from "./text";

/** An entry of the list. Only the shown image is kept decoded, because phones are short of memory. */
interface Item {
  file: File;
  length: string; // known length in mm, as typed
  points: Point[]; // ends of the known length; empty: the image's width
}

interface Shown {
  item: Item;
  image: DecodedImage;
  map: ProbabilityMap;
  prediction: Prediction;
  weights: Weights;
}

/** Longest side of the preview; saved files have the image's own size. */
const PREVIEW_SIDE = 1280;

const get = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const threshold = get<HTMLInputElement>("threshold");
const opacity = get<HTMLInputElement>("opacity");
const compare = get<HTMLInputElement>("compare");
const length = get<HTMLInputElement>("length");
const weights = get<HTMLSelectElement>("weights");

const items: Item[] = [];
let current: Shown | undefined;
let queue = Promise.resolve();

const ruler = new Ruler({
  stage: get("stage"),
  button: get<HTMLButtonElement>("mark"),
  guide: get("guide"),
  size: () => current!.image,
  draw: update,
  done: mark,
});

/** The chosen weights. */
const chosen = () => weights.value as Weights;

function resetThreshold(): void {
  threshold.value = String(Math.round(100 * metadata[chosen()].threshold));
}

function setStatus(message: string): void {
  get("status").textContent = message;
}

function showErrors(messages: string[]): void {
  get("error").hidden = messages.length === 0;
  get("error").textContent = messages.join(" ");
}

/** Segment images one after another; report those that fail and continue. */
function segmentItems(wanted: Item[]): void {
  queue = queue.then(async () => {
    const errors: string[] = [];
    showErrors(errors);
    for (const item of wanted) {
      try {
        setStatus(text.looking);
        const image = await decode(item.file);
        const weights = chosen();
        const prediction = await segment(image, weights);
        const map = { values: prediction.probability, width: image.width, height: image.height };
        current = { item, image, map, prediction, weights };
        if (!items.includes(item)) items.push(item);
        showCurrent();
      } catch (error) {
        errors.push(errorMessage(error, item.file.name));
      }
    }
    showErrors(errors);
    setStatus(current && !errors.length ? text.done(current.item.file.name) : text.ready);
  });
}

function addFiles(files: Iterable<File> | null | undefined): void {
  segmentItems(Array.from(files ?? [], (file) => ({ file, length: "", points: [] })));
}

/** Keep both ends of the known length, and ask for it if it is not known yet. */
function mark(points: Point[]): void {
  current!.item.points = points;
  update();
  const next = points.length && !length.value ? length : get("mark");
  get("guide").textContent = next === length ? text.markNoLength : "";
  next.focus({ preventScroll: next !== length });
}

function errorMessage(error: unknown, name: string): string {
  if (error instanceof DecodeError) return text.noImage(name);
  if (error instanceof ImageTooLargeError) return text.tooLarge(name, MAX_MEGAPIXELS);
  if (error instanceof CameraError) return text.noCamera;
  if (error instanceof LoadError) {
    return typeof WebAssembly === "undefined" ? text.noWasm : text.noNetwork;
  }
  console.error(error);
  return text.failed(name);
}

function showCurrent(): void {
  const { item, image, prediction, weights } = current!;
  ruler.stop();
  get("guide").textContent = "";
  length.value = item.length;
  get("list").hidden = items.length < 2;
  get("list").replaceChildren(
    ...items.map((one) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = one.file.name;
      button.setAttribute("aria-current", String(one === item));
      button.onclick = () => segmentItems([one]);
      return button;
    }),
  );
  get("result").hidden = false;
  const scale = previewScale(image);
  show("photo", image.canvas, toSide(image.width * scale), toSide(image.height * scale));
  get("quality").textContent = prediction.quality.toFixed(2);
  get("review").hidden = prediction.quality >= metadata[weights].review;
  get("runs").textContent = text.computed(Math.round(prediction.milliseconds));
  update();
}

const previewScale = ({ width, height }: { width: number; height: number }) =>
  Math.min(1, PREVIEW_SIDE / Math.max(width, height));

function show(id: string, from: HTMLCanvasElement, width: number, height: number): void {
  const canvas = get<HTMLCanvasElement>(id);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d")!;
  context.imageSmoothingQuality = "high";
  context.drawImage(from, 0, 0, width, height);
}

const thresholdValue = () => Number(threshold.value) / 100;
const tintOpacity = () => Number(opacity.value) / 100;

/** Redraw everything that depends on the sliders and the known length. */
function update(): void {
  for (const slider of [threshold, opacity, compare]) {
    get(`${slider.id}-value`).textContent = `${slider.value} %`;
  }
  if (!current) return;
  const { map, item } = current;
  const overlay = drawOverlay(map, thresholdValue(), tintOpacity(), previewScale(map));
  show("overlay", overlay, overlay.width, overlay.height);
  drawPoints();
  get("overlay").style.clipPath = `inset(0 ${100 - Number(compare.value)}% 0 0)`;
  get("area").textContent = formatArea(current);
  get("unmark").hidden = !item.points.length;
  const wrong = !length.validity.valid || (length.value && !(Number(length.value) > 0));
  length.setAttribute("aria-invalid", String(Boolean(wrong)));
  get("length-help").textContent =
    wrong ? text.lengthWrong : item.points.length ? text.lengthOfPoints : text.lengthOfWidth;
}

function formatArea(shown: Shown): string {
  const { area, area_pixels, area_mm2 } = measurements(shown);
  if (!area_pixels) return text.empty;
  const share = text.share((100 * area).toFixed(1));
  if (area_mm2 === null) return share;
  return `${share}, ${text.squareMillimetres(area_mm2.toPrecision(3))}`;
}

/** The measurements of a result, named as in `Result.to_dict()`. */
function measurements({ item, image, map, prediction, weights }: Shown) {
  const { file, length, points } = item;
  const { pixels, box } = measure(map, thresholdValue());
  const [from, to] = points.length === 2 ? points : [[0, 0], [image.width, 0]];
  const perPixel = Number(length) / Math.hypot(to[0] - from[0], to[1] - from[1]);
  return {
    source: file.name,
    width: image.width,
    height: image.height,
    area: pixels / (image.width * image.height),
    area_pixels: pixels,
    area_mm2: perPixel > 0 && Number.isFinite(perPixel) ? pixels * perPixel ** 2 : null,
    box,
    quality: prediction.quality,
    review: prediction.quality < metadata[weights].review,
    threshold: thresholdValue(),
    weights,
    intended_use: text.use,
  };
}

/** Draw the marked ends of the known length and the keyboard cursor. */
function drawPoints(): void {
  const { ends, cursor } = ruler.marks ?? { ends: current!.item.points, cursor: undefined };
  const { width, height } = get<HTMLCanvasElement>("photo");
  const canvas = get<HTMLCanvasElement>("scale"); // not the overlay, which is clipped
  Object.assign(canvas, { width, height }); // which clears it
  const context = canvas.getContext("2d")!;
  const scale = canvas.width / current!.image.width;
  const pen = Math.max(2, canvas.width / 250);
  context.beginPath();
  for (const [x, y] of ends) {
    context.moveTo(x * scale + 2 * pen, y * scale);
    context.arc(x * scale, y * scale, 2 * pen, 0, 2 * Math.PI);
  }
  if (ends.length === 2) {
    context.moveTo(ends[0][0] * scale, ends[0][1] * scale);
    context.lineTo(ends[1][0] * scale, ends[1][1] * scale);
  }
  if (cursor) {
    for (const [dx, dy] of [[6 * pen, 0], [0, 6 * pen]]) {
      context.moveTo(cursor[0] * scale - dx, cursor[1] * scale - dy);
      context.lineTo(cursor[0] * scale + dx, cursor[1] * scale + dy);
    }
  }
  for (const [color, width] of [["#fff", 2 * pen], ["#0072b2", pen]] as const) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }
}

function save(blob: Blob | null, ending: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob!);
  link.download = current!.item.file.name.replace(/\.[^.]*$/, "") + ending;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function listen(): void {
  for (const id of ["file", "camera-file"]) {
    const input = get<HTMLInputElement>(id);
    input.onchange = () => {
      addFiles(input.files);
      input.value = "";
    };
  }
  get("camera").onclick = async () => {
    try {
      const file = await takePhoto();
      if (file) addFiles([file]);
    } catch (error) {
      showErrors([errorMessage(error, text.camera)]);
    }
  };
  get("sample").onclick = async () => {
    setStatus(text.looking);
    weights.value = "isic2018"; // the sample is a skin lesion
    const blob = await (await fetch(sampleUrl)).blob();
    addFiles([new File([blob], "sample.jpg")]);
  };
  document.onpaste = (event) => addFiles(event.clipboardData?.files);
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.ondragleave = () => document.body.classList.remove("dropping");
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    addFiles(event.dataTransfer?.files);
  };
  for (const slider of [threshold, opacity, compare]) slider.oninput = update;
  length.oninput = () => {
    current!.item.length = length.value;
    if (length.value) get("guide").textContent = "";
    update();
  };
  get("unmark").onclick = () => mark([]);
  weights.onchange = () => {
    resetThreshold();
    if (current) segmentItems([current.item]);
  };

  get("save-mask").onclick = () =>
    drawMask(current!.map, thresholdValue()).toBlob((blob) => save(blob, "-mask.png"));
  get("save-overlay").onclick = () => {
    const { width, height, canvas } = current!.image;
    const both = document.createElement("canvas");
    both.width = width;
    both.height = height;
    const context = both.getContext("2d")!;
    context.drawImage(canvas, 0, 0);
    context.drawImage(drawOverlay(current!.map, thresholdValue(), tintOpacity()), 0, 0);
    both.toBlob((blob) => save(blob, "-overlay.png"));
  };
  get("save-json").onclick = () =>
    save(new Blob([JSON.stringify(measurements(current!), null, 2)], { type: "application/json" }), ".json");
}

resetThreshold();
listen();
update();
load(chosen()).then(
  () => current || setStatus(text.ready),
  (error) => {
    setStatus("");
    showErrors([errorMessage(error, "")]);
  },
);
if (import.meta.env.PROD) void navigator.serviceWorker?.register("./sw.js");
