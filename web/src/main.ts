import facts from "../generated/facts.json";
import sampleUrl from "../generated/sample.jpg?url";
import { NoCamera, takePhoto } from "./camera";
import { drawMask, drawOverlay, measure, type Probability, toSide } from "./mask";
import { type Answer, type Engine, load, segment } from "./model";
import { decode, MOST_MILLION, NotAPhoto, type Photo, TooLarge } from "./photo";
import { type Point, Ruler } from "./ruler";
import { text } from "./text";

/** One of the list. Only the photo on show is held decoded: phones are short of memory. */
interface Item {
  file: File;
  length: string; // the known length in mm, as typed
  points: Point[]; // both ends of the known length; none: the photo's width
}

interface Shown {
  item: Item;
  photo: Photo;
  map: Probability;
  answer: Answer;
}

/** Longest side of what is shown; what is saved has the photo's own size. */
const SHOWN = 1280;

const get = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const threshold = get<HTMLInputElement>("threshold");
const opacity = get<HTMLInputElement>("opacity");
const compare = get<HTMLInputElement>("compare");
const length = get<HTMLInputElement>("length");
const engine = get<HTMLSelectElement>("engine");

const items: Item[] = [];
let current: Shown | undefined;
let queue = Promise.resolve();

const ruler = new Ruler({
  stage: get("stage"),
  button: get<HTMLButtonElement>("mark"),
  guide: get("guide"),
  size: () => current!.photo,
  draw: update,
  done: mark,
});

threshold.value = String(Math.round(100 * facts.threshold));

function say(message: string): void {
  get("status").textContent = message;
}

function complain(messages: string[]): void {
  get("error").hidden = messages.length === 0;
  get("error").textContent = messages.join(" ");
}

/** Look at photos one after the other; what cannot be taken is told, the rest is done. */
function look(wanted: Item[]): void {
  queue = queue.then(async () => {
    const wrong: string[] = [];
    complain(wrong);
    for (const item of wanted) {
      try {
        say(text.looking);
        const photo = await decode(item.file);
        await new Promise((shown) => setTimeout(shown)); // so that the words appear first
        const answer = await segment(photo, engine.value as Engine);
        const map = { values: answer.probability, width: photo.width, height: photo.height };
        current = { item, photo, map, answer };
        if (!items.includes(item)) items.push(item);
        showCurrent();
      } catch (error) {
        wrong.push(explain(error, item.file.name));
      }
    }
    complain(wrong);
    say(current && !wrong.length ? text.done(current.item.file.name) : text.ready);
  });
}

function take(files: Iterable<File> | null | undefined): void {
  look(Array.from(files ?? [], (file) => ({ file, length: "", points: [] })));
}

/** Keep both ends of the known length, and ask for it if it is not known yet. */
function mark(points: Point[]): void {
  current!.item.points = points;
  update();
  const next = points.length && !length.value ? length : get("mark");
  get("guide").textContent = next === length ? text.markNoLength : "";
  next.focus({ preventScroll: next !== length });
}

function explain(error: unknown, name: string): string {
  if (error instanceof NotAPhoto) return text.noImage(name);
  if (error instanceof TooLarge) return text.tooLarge(name, MOST_MILLION);
  if (error instanceof NoCamera) return text.noCamera;
  if (engine.value === "webgpu") {
    engine.value = "wasm";
    return text.noWebGpu;
  }
  console.error(error);
  return text.failed(name);
}

function showCurrent(): void {
  const { item, photo, answer } = current!;
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
      button.onclick = () => look([one]);
      return button;
    }),
  );
  get("result").hidden = false;
  const scale = shrink(photo);
  show("photo", photo.canvas, toSide(photo.width * scale), toSide(photo.height * scale));
  get("quality").textContent = answer.quality.toFixed(2);
  get("review").hidden = answer.quality >= facts.review;
  get("runs").textContent = `${text[answer.engine]}, ${Math.round(answer.milliseconds)} ms`;
  update();
}

const shrink = ({ width, height }: { width: number; height: number }) =>
  Math.min(1, SHOWN / Math.max(width, height));

function show(id: string, from: HTMLCanvasElement, width: number, height: number): void {
  const canvas = get<HTMLCanvasElement>(id);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d")!;
  context.imageSmoothingQuality = "high";
  context.drawImage(from, 0, 0, width, height);
}

const limit = () => Number(threshold.value) / 100;
const tint = () => Number(opacity.value) / 100;

/** Draw and tell everything that depends on the sliders. */
function update(): void {
  for (const slider of [threshold, opacity, compare]) {
    get(`${slider.id}-value`).textContent = `${slider.value} %`;
  }
  if (!current) return;
  const { map, item } = current;
  const overlay = drawOverlay(map, limit(), tint(), shrink(map));
  show("overlay", overlay, overlay.width, overlay.height);
  drawPoints();
  get("overlay").style.clipPath = `inset(0 ${100 - Number(compare.value)}% 0 0)`;
  get("area").textContent = describeArea(current);
  get("unmark").hidden = !item.points.length;
  const wrong = !length.validity.valid || (length.value && !(Number(length.value) > 0));
  length.setAttribute("aria-invalid", String(Boolean(wrong)));
  get("length-help").textContent =
    wrong ? text.lengthWrong : item.points.length ? text.lengthOfPoints : text.lengthOfWidth;
}

function describeArea(shown: Shown): string {
  const numbers = tell(shown);
  if (!numbers.area_pixels) return text.empty;
  const share = text.share((100 * numbers.area).toFixed(1));
  if (numbers.area_mm2 === null) return share;
  return `${share}, ${text.squareMillimetres(numbers.area_mm2.toPrecision(3))}`;
}

/** The numbers of a result, named as those of the Python package. */
function tell({ item: { file, length, points }, photo, map, answer }: Shown) {
  const { pixels, box } = measure(map, limit());
  const [from, to] = points.length === 2 ? points : [[0, 0], [photo.width, 0]];
  const perPixel = Number(length) / Math.hypot(to[0] - from[0], to[1] - from[1]);
  return {
    source: file.name,
    width: photo.width,
    height: photo.height,
    area: pixels / (photo.width * photo.height),
    area_pixels: pixels,
    area_mm2: perPixel > 0 && Number.isFinite(perPixel) ? pixels * perPixel ** 2 : null,
    box,
    quality: answer.quality,
    review: answer.quality < facts.review,
    threshold: limit(),
    weights: facts.weights,
    intended_use: text.use,
  };
}

/** The known length: both ends, as far as they are marked, and the cross that keys move. */
function drawPoints(): void {
  const { ends, cross } = ruler.marks ?? { ends: current!.item.points, cross: undefined };
  const { width, height } = get<HTMLCanvasElement>("photo");
  const canvas = get<HTMLCanvasElement>("scale"); // not the overlay, which is clipped
  Object.assign(canvas, { width, height }); // which clears it
  const context = canvas.getContext("2d")!;
  const scale = canvas.width / current!.photo.width;
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
  if (cross) {
    for (const [dx, dy] of [[6 * pen, 0], [0, 6 * pen]]) {
      context.moveTo(cross[0] * scale - dx, cross[1] * scale - dy);
      context.lineTo(cross[0] * scale + dx, cross[1] * scale + dy);
    }
  }
  for (const [colour, width] of [["#fff", 2 * pen], ["#0072b2", pen]] as const) {
    context.strokeStyle = colour;
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
      take(input.files);
      input.value = "";
    };
  }
  get("camera").onclick = async () => {
    try {
      const file = await takePhoto();
      if (file) take([file]);
    } catch (error) {
      complain([explain(error, text.camera)]);
    }
  };
  get("sample").onclick = async () => {
    say(text.looking);
    const blob = await (await fetch(sampleUrl)).blob();
    take([new File([blob], "sample.jpg")]);
  };
  document.onpaste = (event) => take(event.clipboardData?.files);
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.ondragleave = () => document.body.classList.remove("dropping");
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    take(event.dataTransfer?.files);
  };
  for (const slider of [threshold, opacity, compare]) slider.oninput = update;
  length.oninput = () => {
    current!.item.length = length.value;
    if (length.value) get("guide").textContent = "";
    update();
  };
  get("unmark").onclick = () => mark([]);

  get("engines").hidden = !("gpu" in navigator);
  engine.onchange = () => look([current!.item]);

  get("save-mask").onclick = () =>
    drawMask(current!.map, limit()).toBlob((blob) => save(blob, "-mask.png"));
  get("save-overlay").onclick = () => {
    const { width, height, canvas } = current!.photo;
    const both = document.createElement("canvas");
    both.width = width;
    both.height = height;
    const context = both.getContext("2d")!;
    context.drawImage(canvas, 0, 0);
    context.drawImage(drawOverlay(current!.map, limit(), tint()), 0, 0);
    both.toBlob((blob) => save(blob, "-overlay.png"));
  };
  get("save-json").onclick = () =>
    save(new Blob([JSON.stringify(tell(current!), null, 2)], { type: "application/json" }), ".json");
}

listen();
update();
load("wasm").then(
  () => current || say(text.ready),
  () => {
    say("");
    complain([typeof WebAssembly === "undefined" ? text.noWasm : text.noNetwork]);
  },
);
if (import.meta.env.PROD) void navigator.serviceWorker?.register("./sw.js");
