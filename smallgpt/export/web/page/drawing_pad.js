/**
 * A surface to draw on: mouse, touch, pen, keyboard. Strokes are kept, so that each can be undone.
 *
 * @typedef {object} Stroke
 * @property {number[]} color
 * @property {number} width as a share of the shorter side
 * @property {[number, number][]} points as shares of width and height
 */

import { element, newId } from "./dom.js";
import { say } from "./words.js";

const PIXELS = 448; // of the shorter side, about
const STEP = 0.02; // of an arrow key; with Shift five times as much

export class DrawingPad {
  /** @type {Stroke[]} */
  strokes = [];
  /** @type {ImageBitmap | null} */
  background = null;
  inverted = false;
  brush;
  color;
  #cursor = { x: 0.5, y: 0.5, down: false };
  /** @type {Stroke | null} */
  #current = null;
  /** @type {HTMLCanvasElement} */
  canvas;

  /**
   * @param {{ width: number, height: number, paper: number[], ink: number[], brush: number,
   *   onChange: () => void }} wish width and height: pixels of an image of the model
   */
  constructor({ width, height, paper, ink, brush, onChange }) {
    const each = Math.max(2, Math.round(PIXELS / Math.min(width, height)));
    this.width = width * each;
    this.height = height * each;
    this.paper = paper;
    this.color = ink;
    this.brush = brush;
    this.onChange = onChange;
    this.canvas = element("canvas");
  }

  /** @returns {HTMLElement} */
  build() {
    const hint = newId();
    this.canvas = element("canvas", {
      class: "pad",
      width: this.width,
      height: this.height,
      tabindex: 0,
      role: "application",
      "aria-roledescription": say("pad"),
      "aria-label": say("pad"),
      "aria-describedby": hint,
      pointerdown: (/** @type {PointerEvent} */ event) => this.#start(event),
      pointermove: (/** @type {PointerEvent} */ event) => this.#move(event),
      pointerup: () => this.#end(),
      pointercancel: () => this.#end(),
      keydown: (/** @type {KeyboardEvent} */ event) => this.#key(event),
      focus: () => this.#showMark(),
      blur: () => this.#lift(),
    });
    this.mark = element("span", { class: "pen", "aria-hidden": "true" });
    this.state = element("span", { class: "unseen", "aria-live": "polite" });
    this.draw();
    return element("div", { class: "pad-frame" }, this.canvas, this.mark, this.state,
      element("p", { class: "quiet hint", id: hint }, say("drawHint")));
  }

  get isEmpty() {
    return !this.strokes.length && this.background === null;
  }

  /** @returns {import("./pixels.js").Picture} */
  picture() {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    if (context === null) throw new Error("no canvas");
    return context.getImageData(0, 0, this.width, this.height);
  }

  undo() {
    if (this.strokes.length) this.strokes.pop();
    else this.background = null;
    this.#changed();
  }

  clear() {
    this.strokes = [];
    this.background = null;
    this.inverted = false;
    this.#changed();
  }

  /** @param {ImageBitmap} bitmap fills the surface, as the model's images are stretched */
  open(bitmap) {
    this.strokes = [];
    this.background = bitmap;
    this.inverted = false;
    this.#changed();
  }

  invert() {
    this.inverted = !this.inverted;
    this.#changed();
  }

  draw() {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    if (context === null) return;
    context.globalCompositeOperation = "source-over";
    context.fillStyle = cssColor(this.paper);
    context.fillRect(0, 0, this.width, this.height);
    if (this.background) context.drawImage(this.background, 0, 0, this.width, this.height);
    context.lineCap = context.lineJoin = "round";
    for (const { color, width, points } of this.strokes) {
      context.strokeStyle = context.fillStyle = cssColor(color);
      context.lineWidth = width * Math.min(this.width, this.height);
      context.beginPath();
      const [[firstX, firstY]] = points;
      if (points.every(([x, y]) => x === firstX && y === firstY)) {
        // A line without length has no round ends in every browser.
        context.arc(firstX * this.width, firstY * this.height, context.lineWidth / 2, 0, 2 * Math.PI);
        context.fill();
        continue;
      }
      points.forEach(([x, y], index) => {
        if (index) context.lineTo(x * this.width, y * this.height);
        else context.moveTo(x * this.width, y * this.height);
      });
      context.stroke();
    }
    if (this.inverted) {
      context.globalCompositeOperation = "difference";
      context.fillStyle = "white";
      context.fillRect(0, 0, this.width, this.height);
    }
  }

  #changed() {
    this.draw();
    this.onChange();
  }

  /** @param {[number, number]} point */
  #begin(point) {
    const color = this.inverted ? this.color.map((value) => 255 - value) : this.color;
    this.#current = { color, width: this.brush, points: [point] };
    this.strokes.push(this.#current);
    this.#changed();
  }

  // ---- mouse, touch, pen ---------------------------------------------------------------

  /**
   * @param {PointerEvent} event
   * @returns {[number, number]}
   */
  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  /** @param {PointerEvent} event */
  #start(event) {
    if (event.button !== 0) return;
    this.#lift();
    this.canvas.setPointerCapture(event.pointerId);
    this.#begin(this.#point(event));
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (this.#current === null || this.#cursor.down || !event.buttons) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.#current.points.push(this.#point(each));
    this.#changed();
  }

  #end() {
    if (!this.#cursor.down) this.#current = null;
  }

  // ---- keyboard ----------------------------------------------------------------------------

  /** @param {KeyboardEvent} event */
  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (move) {
      const far = event.shiftKey ? 5 * STEP : STEP;
      const cursor = this.#cursor;
      cursor.x = Math.min(1, Math.max(0, cursor.x + far * move[0]));
      cursor.y = Math.min(1, Math.max(0, cursor.y + far * move[1]));
      if (cursor.down && this.#current) {
        this.#current.points.push([cursor.x, cursor.y]);
        this.#changed();
      }
    } else if (event.key === " ") {
      if (this.#cursor.down) this.#lift();
      else {
        this.#begin([this.#cursor.x, this.#cursor.y]);
        this.#cursor.down = true;
        this.#tellPen();
      }
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.#lift();
      this.clear();
    } else if (event.key.toLowerCase() === "u") {
      this.#lift();
      this.undo();
    } else return;
    event.preventDefault();
    this.#showMark();
  }

  #lift() {
    if (!this.#cursor.down) return;
    this.#cursor.down = false;
    this.#current = null;
    this.#tellPen();
  }

  #tellPen() {
    if (this.state) this.state.textContent = say(this.#cursor.down ? "penDown" : "penUp");
    this.#showMark();
  }

  #showMark() {
    if (!this.mark) return;
    this.mark.style.left = `${this.#cursor.x * this.canvas.clientWidth}px`;
    this.mark.style.top = `${this.#cursor.y * this.canvas.clientHeight}px`;
    this.mark.classList.toggle("down", this.#cursor.down);
    this.mark.classList.add("used");
  }
}

/** @param {number[]} color */
export function cssColor(color) {
  return `rgb(${color.join(" ")})`;
}
