/**
 * The page of a model of images: draw, and see labels, codes, completions, made-up images.
 *
 * @typedef {import("./facts.js").Facts} Facts
 * @typedef {import("./answers.js").Look} Look
 * @typedef {import("./engine.js").Engine} Engine
 */

import { Announcer, LabelBars, card, element, newId, paint, picture, slider } from "./dom.js";
import { DrawingPad, cssColor } from "./drawing_pad.js";
import { Forgotten } from "./engine.js";
import { frameOf, imageOfDrawing, imageOfPicture } from "./pixels.js";
import { argmax } from "./sampling.js";
import { decimal, percent, say } from "./words.js";

const COMPLETIONS = 4;
const MADE_UP = 8;
const PAUSE = 350; // milliseconds without a stroke before a drawing is completed
/** @type {[import("./words.js").Word, number[]][]} */
const COLORS = [
  ["white", [255, 255, 255]], ["black", [0, 0, 0]], ["red", [214, 40, 40]],
  ["orange", [240, 150, 30]], ["yellow", [245, 210, 50]], ["green", [50, 150, 70]],
  ["blue", [40, 100, 200]], ["purple", [130, 70, 170]],
];

export class ImageView {
  /** @type {Look | null} */
  look = null;
  temperature = 1;
  center;
  kept;
  /** @type {import("./pixels.js").Picture | null} */
  opened = null; // pixels of a file, as long as nothing is drawn over it
  #isLooking = false;
  #isStale = false;
  #timer = 0;

  /**
   * @param {Engine} engine
   * @param {Facts} facts
   * @param {(error: unknown) => void} fail
   */
  constructor(engine, facts, fail) {
    const { codebook, drawing } = facts;
    if (codebook === null || drawing === null) throw new Error("not a model of images");
    this.engine = engine;
    this.facts = facts;
    this.codebook = codebook;
    this.drawing = drawing;
    this.fail = fail;
    this.rows = Math.ceil(codebook.height / codebook.patch_size);
    this.kept = Math.max(1, Math.floor(this.rows / 2));
    this.center = drawing.box !== null;
    this.canGoOn = facts.predicts_tokens;
    const isBright = drawing.paper.reduce((sum, value) => sum + value, 0) > 1.5 * 255;
    this.pad = new DrawingPad({
      width: codebook.width,
      height: codebook.height,
      paper: drawing.paper,
      ink: isBright ? [0, 0, 0] : [255, 255, 255],
      brush: drawing.brush,
      onChange: () => this.#changed(),
    });
  }

  /** @returns {Node[]} */
  build() {
    const { width, height } = this.codebook;
    this.announcer = new Announcer();
    this.labels = new LabelBars();
    this.seen = picture(width, height);
    this.seenWords = element("p", { class: "quiet" });
    this.warning = element("p", { class: "warning", hidden: true });
    /** @type {HTMLElement[]} */
    const parts = [
      element("div", { class: "columns" },
        this.#buildPad(),
        element("div", { class: "stack" },
          this.facts.labels.length ? card(say("says"), this.labels.box) : null,
          card(say("sees"), element("div", { class: "seen" }, this.seen,
            element("div", {}, this.seenWords, this.#buildCentering(), this.warning))))),
    ];
    if (this.canGoOn) parts.push(this.#buildImagination());
    parts.push(this.announcer.box);
    this.#showLook();
    this.#lookSoon(); // a server may have refused it before
    if (this.canGoOn) this.#completeSoon();
    return parts;
  }

  #buildPad() {
    const pad = this.pad.build();
    const file = element("input", {
      type: "file", accept: "image/*", class: "unseen", id: newId(),
      change: () => {
        if (file.files?.[0]) void this.#openFile(file.files[0]);
        file.value = "";
      },
    });
    const surface = card(say("draw"), pad,
      element("div", { class: "tools" },
        (this.undo = this.#button("undo", () => this.pad.undo())),
        this.#button("clear", () => this.pad.clear()),
        element("span", { class: "file" }, file, element("label", { for: file.id, class: "button" }, say("open"))),
        this.#button("invert", () => this.pad.invert())),
      (this.fileProblem = element("p", { class: "warning", role: "alert", hidden: true })),
      slider({
        name: say("brush"), min: 0.02, max: 0.3, step: 0.01, value: this.pad.brush,
        shown: (value) => percent(value).replace(/[.,]\d/, ""),
        onInput: (value) => (this.pad.brush = value),
      }),
      this.codebook.channels === 3 ? this.#buildColors() : null);
    this.undo.disabled = this.pad.isEmpty;
    surface.addEventListener("dragover", (event) => {
      event.preventDefault();
      surface.classList.add("dropping");
    });
    surface.addEventListener("dragleave", () => surface.classList.remove("dropping"));
    surface.addEventListener("drop", (event) => {
      event.preventDefault();
      surface.classList.remove("dropping");
      const dropped = event.dataTransfer?.files[0];
      if (dropped) void this.#openFile(dropped);
    });
    return surface;
  }

  #buildColors() {
    const name = newId();
    return element("fieldset", { class: "colors" }, element("legend", {}, say("colour")),
      ...COLORS.map(([word, color]) => {
        const choice = element("input", {
          type: "radio", name, "aria-label": say(word), title: say(word),
          checked: String(color) === String(this.pad.color),
          change: () => (this.pad.color = color),
        });
        choice.style.setProperty("--color", cssColor(color));
        return choice;
      }));
  }

  #buildCentering() {
    if (this.drawing.box === null) return null;
    const box = element("input", {
      type: "checkbox", checked: this.center,
      change: () => {
        this.center = box.checked;
        this.#lookSoon();
      },
    });
    return element("label", { class: "choice" }, box, say("center"));
  }

  #buildImagination() {
    const { width, height } = this.codebook;
    const pictures = (/** @type {number} */ count) =>
      Array.from({ length: count }, () =>
        element("figure", {}, picture(width, height), element("figcaption")));
    this.completions = pictures(COMPLETIONS);
    this.completionNote = element("p", { class: "quiet" });
    const completed = element("div", { class: "gallery four", role: "group" }, ...this.completions);
    this.madeUp = pictures(MADE_UP);
    const gallery = element("div", { class: "gallery", role: "group" }, ...this.madeUp);
    this.maker = this.#button("makeUp", () => void this.#makeUp());
    this.maker.classList.add("main");
    const whole = card(say("imagines"),
      slider({
        name: say("temperature"), hint: say("temperatureHint"), min: 0, max: 2, step: 0.05,
        value: this.temperature, shown: decimal,
        onInput: (value) => {
          this.temperature = value;
          this.#completeSoon();
        },
      }),
      element("div", { class: "columns inner" },
        element("div", {},
          element("h3", {}, say("goesOn")),
          element("p", { class: "quiet" }, say("goesOnHint")),
          slider({
            name: say("kept"), min: 1, max: Math.max(1, this.rows - 1), step: 1, value: this.kept,
            shown: (kept) => say("keptRows", { kept, rows: this.rows }),
            onInput: (value) => {
              this.kept = value;
              this.#completeSoon();
            },
          }),
          completed, this.completionNote,
          this.#button("again", () => this.#completeSoon())),
        element("div", {},
          element("h3", {}, say("madeUp")),
          this.maker, gallery)));
    this.#nameFigures();
    return whole;
  }

  /**
   * @param {import("./words.js").Word} word
   * @param {() => void} click
   */
  #button(word, click) {
    return element("button", { type: "button", class: "button", click }, say(word));
  }

  // ---- the drawing ------------------------------------------------------------------------

  #changed() {
    if (this.undo) this.undo.disabled = this.pad.isEmpty;
    if (this.pad.strokes.length || this.pad.background === null || this.pad.inverted) this.opened = null;
    if (this.fileProblem) this.fileProblem.hidden = true;
    this.#lookSoon();
    if (this.canGoOn) this.#completeSoon();
  }

  /** @param {File} file */
  async #openFile(file) {
    let bitmap;
    try {
      // The pixels of the file as they are, and transparent parts not yet mixed.
      bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    } catch {
      if (!this.fileProblem) return;
      this.fileProblem.textContent = say("notAnImage", { name: file.name });
      this.fileProblem.hidden = false;
      return;
    }
    const { width, height } = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    if (context === null) return;
    context.drawImage(bitmap, 0, 0);
    const pixels = context.getImageData(0, 0, width, height);
    this.pad.open(bitmap);
    this.opened = pixels;
    this.#lookSoon();
  }

  /**
   * The drawing as an image of the model, null if it is empty.
   *
   * @param {boolean} center
   * @returns {Float32Array | null}
   */
  #image(center) {
    if (this.pad.isEmpty) return null;
    if (this.opened !== null) return imageOfPicture(this.opened, this.codebook);
    const drawn = this.pad.picture();
    const paper = this.pad.inverted ? this.drawing.paper.map((value) => 255 - value) : this.drawing.paper;
    const isPlain = this.pad.background === null;
    const frame = frameOf(drawn, paper, center && isPlain ? this.drawing.box : null);
    return frame && imageOfDrawing(drawn, frame, paper, this.codebook);
  }

  #lookSoon() {
    this.#isStale = true;
    if (!this.#isLooking) requestAnimationFrame(() => void this.#lookNow());
  }

  async #lookNow() {
    if (this.#isLooking || !this.#isStale) return;
    this.#isLooking = true;
    this.#isStale = false;
    try {
      const image = this.#image(this.center);
      this.look = image && (await this.engine.ask("look", { image }));
      this.#showLook();
    } catch (error) {
      this.fail(error);
    }
    this.#isLooking = false;
    if (this.#isStale) this.#lookSoon();
  }

  #showLook() {
    const { look, facts, seen } = this;
    if (!seen || !this.seenWords || !this.warning) return;
    this.labels?.show(facts.labels, look?.labels ?? null, say("saysNothing"));
    seen.setAttribute("aria-label", say("sees"));
    seen.classList.toggle("empty", look === null);
    if (look === null) {
      const { width, height } = this.codebook;
      paint(seen, new Uint8ClampedArray(4 * width * height));
    } else paint(seen, look.seen);
    this.seenWords.textContent = say("seesCodes", {
      count: this.rows * Math.ceil(this.codebook.width / this.codebook.patch_size),
      all: this.codebook.code_ids.length,
    });
    this.warning.hidden = !look?.unlike;
    if (look?.unlike) {
      this.warning.textContent = say("unlike") + (look.inverted ? ` ${say("unlikeInverted")}` : "");
    }
    if (look?.labels) {
      const best = argmax(look.labels);
      this.announcer?.tell(say("best", { label: facts.labels[best], share: percent(look.labels[best]) }));
    }
  }

  // ---- what the model imagines -------------------------------------------------------------

  #nameFigures() {
    this.completions?.forEach((figure, index) =>
      figure.firstElementChild?.setAttribute("aria-label", say("completedOne", { number: index + 1 })));
    this.madeUp?.forEach((figure, index) =>
      figure.firstElementChild?.setAttribute("aria-label", say("madeUpOne", { number: index + 1 })));
  }

  #completeSoon() {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => void this.#complete(), PAUSE);
  }

  async #complete() {
    if (!this.completions || !this.completionNote) return;
    this.engine.forget("complete");
    const image = this.#image(false);
    const isNothing = image === null || this.rows < 2;
    this.completionNote.textContent = isNothing ? say("goesOnNothing") : "";
    for (const figure of this.completions) {
      figure.classList.toggle("empty", isNothing);
      figure.style.setProperty("--kept", isNothing ? "0" : String(this.kept / this.rows));
    }
    if (isNothing) {
      for (const figure of this.completions) delete figure.dataset.codes;
      return;
    }
    await this.#draw("complete", { image, kept: this.kept, count: COMPLETIONS }, this.completions, "completedOne");
  }

  async #makeUp() {
    if (!this.madeUp) return;
    for (const figure of this.madeUp) figure.classList.remove("empty");
    await this.#draw("makeUp", { kept: 0, count: MADE_UP }, this.madeUp, "madeUpOne");
  }

  /**
   * @param {string} topic
   * @param {object} question
   * @param {HTMLElement[]} figures
   * @param {"completedOne" | "madeUpOne"} word
   */
  async #draw(topic, question, figures, word) {
    const show = (/** @type {{ images: Uint8ClampedArray<ArrayBuffer>[] }} */ { images }) =>
      images.forEach((image, index) => {
        const canvas = /** @type {HTMLCanvasElement} */ (figures[index].firstElementChild);
        paint(canvas, image);
      });
    for (const figure of figures) delete figure.dataset.codes;
    try {
      const asked = { ...question, temperature: this.temperature };
      const made = await this.engine.askLatest(topic, "draw", asked, show);
      show(made);
      figures.forEach((figure, index) => {
        const shares = made.labels[index];
        const label = shares ? this.facts.labels[argmax(shares)] : "";
        const caption = /** @type {HTMLElement} */ (figure.lastElementChild);
        caption.textContent = caption.title = label;
        const number = index + 1;
        figure.firstElementChild?.setAttribute("aria-label",
          word === "madeUpOne" && label ? say("madeUpLabel", { number, label }) : say(word, { number }));
        figure.dataset.codes = made.codes[index].join(" ");
      });
    } catch (error) {
      if (!(error instanceof Forgotten)) this.fail(error);
    }
  }
}
