import { text } from "./text";

export type Point = [x: number, y: number]; // in pixels of the photo

/** What is being marked: the ends that are set, and the cross that keys move. */
export interface Marks {
  ends: Point[];
  cross?: Point;
}

interface Settings {
  stage: HTMLElement;
  button: HTMLButtonElement;
  guide: HTMLElement;
  size: () => { width: number; height: number };
  draw: () => void;
  done: (ends: Point[]) => void;
}

const ARROWS: Record<string, Point> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};
const STEP = 0.02; // of the photo's longer side; with Shift a tenth of it

/** Lets people mark both ends of a known length in the photo, by pointer or by keys. */
export class Ruler {
  marks: Marks | undefined;

  constructor(private readonly on: Settings) {
    on.button.onclick = () => (this.marks ? this.stop() : this.start());
    on.stage.onclick = (event) => {
      const box = on.stage.getBoundingClientRect();
      const { width, height } = on.size();
      this.set([
        ((event.clientX - box.left) / box.width) * width,
        ((event.clientY - box.top) / box.height) * height,
      ]);
    };
    on.stage.onkeydown = (event) => this.press(event);
  }

  /** Forget what is half marked. */
  stop(): void {
    if (!this.marks) return;
    this.marks = undefined;
    this.on.guide.textContent = "";
    this.on.stage.setAttribute("role", "img");
    this.on.button.setAttribute("aria-pressed", "false");
    this.on.stage.classList.remove("marking");
    this.on.stage.removeAttribute("tabindex");
    this.on.draw();
  }

  private start(): void {
    this.marks = { ends: [] };
    this.on.button.setAttribute("aria-pressed", "true");
    this.on.stage.classList.add("marking");
    this.on.stage.setAttribute("role", "application"); // screen readers leave it the arrow keys
    this.on.stage.tabIndex = 0;
    this.on.stage.focus();
    this.on.guide.textContent = text.markFirst;
    this.on.draw();
  }

  private set(end: Point): void {
    if (!this.marks) return;
    const [first] = this.marks.ends;
    if (!first) {
      this.marks.ends.push(end);
      this.on.guide.textContent = text.markSecond;
      return this.on.draw();
    }
    if (first[0] === end[0] && first[1] === end[1]) {
      this.on.guide.textContent = text.markSame;
      return;
    }
    this.stop();
    this.on.done([first, end]);
  }

  private press(event: KeyboardEvent): void {
    if (!this.marks) return;
    const { width, height } = this.on.size();
    const cross: Point = this.marks.cross ?? [width / 2, height / 2];
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = STEP * Math.max(width, height) * (event.shiftKey ? 0.1 : 1);
      const [x, y] = [cross[0] + arrow[0] * step, cross[1] + arrow[1] * step];
      this.marks.cross = [Math.min(width, Math.max(0, x)), Math.min(height, Math.max(0, y))];
      this.on.draw();
    } else if (event.key === "Enter") {
      this.set([...cross]);
    } else if (event.key === "Escape") {
      this.on.button.focus();
      this.stop();
    } else {
      return;
    }
    event.preventDefault();
  }
}
