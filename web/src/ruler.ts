import { text } from "./text";

export type Point = [x: number, y: number]; // in image pixels

/** The ends marked so far, and the position of the keyboard cursor. */
export interface Marks {
  ends: Point[];
  cursor?: Point;
}

interface Options {
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
const STEP = 0.02; // fraction of the longer side; a tenth of it with Shift

/** Marks both ends of a known length in the image, by pointer or keyboard. */
export class Ruler {
  marks: Marks | undefined;

  constructor(private readonly options: Options) {
    options.button.onclick = () => (this.marks ? this.stop() : this.start());
    options.stage.onclick = (event) => {
      const box = options.stage.getBoundingClientRect();
      const { width, height } = options.size();
      this.set([
        ((event.clientX - box.left) / box.width) * width,
        ((event.clientY - box.top) / box.height) * height,
      ]);
    };
    options.stage.onkeydown = (event) => this.press(event);
  }

  /** Stop marking and discard an unfinished mark. */
  stop(): void {
    if (!this.marks) return;
    this.marks = undefined;
    this.options.guide.textContent = "";
    this.options.stage.setAttribute("role", "img");
    this.options.button.setAttribute("aria-pressed", "false");
    this.options.stage.classList.remove("marking");
    this.options.stage.removeAttribute("tabindex");
    this.options.draw();
  }

  private start(): void {
    this.marks = { ends: [] };
    this.options.button.setAttribute("aria-pressed", "true");
    this.options.stage.classList.add("marking");
    this.options.stage.setAttribute("role", "application"); // lets arrow keys through screen readers
    this.options.stage.tabIndex = 0;
    this.options.stage.focus();
    this.options.guide.textContent = text.markFirst;
    this.options.draw();
  }

  private set(end: Point): void {
    if (!this.marks) return;
    const [first] = this.marks.ends;
    if (!first) {
      this.marks.ends.push(end);
      this.options.guide.textContent = text.markSecond;
      return this.options.draw();
    }
    if (first[0] === end[0] && first[1] === end[1]) {
      this.options.guide.textContent = text.markSame;
      return;
    }
    this.stop();
    this.options.done([first, end]);
  }

  private press(event: KeyboardEvent): void {
    if (!this.marks) return;
    const { width, height } = this.options.size();
    const cursor: Point = this.marks.cursor ?? [width / 2, height / 2];
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = STEP * Math.max(width, height) * (event.shiftKey ? 0.1 : 1);
      const [x, y] = [cursor[0] + arrow[0] * step, cursor[1] + arrow[1] * step];
      this.marks.cursor = [Math.min(width, Math.max(0, x)), Math.min(height, Math.max(0, y))];
      this.options.draw();
    } else if (event.key === "Enter") {
      this.set([...cursor]);
    } else if (event.key === "Escape") {
      this.options.button.focus();
      this.stop();
    } else {
      return;
    }
    event.preventDefault();
  }
}
