/**
 * The page of a model of tokens, texts or instructions: write, and see what comes next, how
 * surprised the model was, and labels.
 *
 * @typedef {import("./facts.js").Facts} Facts
 * @typedef {import("./answers.js").Reading} Reading
 * @typedef {import("./engine.js").Engine} Engine
 */

import { Announcer, Bars, LabelBars, card, element, newId, slider } from "./dom.js";
import { Forgotten } from "./engine.js";
import { RowProblem } from "./rows.js";
import { argmax } from "./sampling.js";
import { Suggestions } from "./suggestions.js";
import { MOST_LETTERS } from "./text.js";
import { decimal, percent, say, sayProblem } from "./words.js";

const PAUSE = 150; // milliseconds without a letter before the row is read
const MOST_CHIPS = 2000;
const LEAST_SHOWN = 0.0005; // of a next token

export class RowView {
  text = "";
  /** @type {number[]} */
  added = []; // tokens after the text that were chosen, or that the model wrote
  written = ""; // their text
  temperature = 0.8;
  /** @type {Reading | null} */
  reading = null;
  isWriting = false;
  #timer = 0;

  /**
   * @param {Engine} engine
   * @param {Facts} facts
   * @param {(error: unknown) => void} fail
   */
  constructor(engine, facts, fail) {
    this.engine = engine;
    this.facts = facts;
    this.fail = fail;
    this.isInstructed = facts.kind === "instructions";
    this.isTokens = facts.kind === "tokens";
    this.canGoOn = facts.predicts_tokens;
    this.even = Math.log(facts.vocabulary); // nats of a blind guess; there a colour is full
  }

  /** @returns {Node[]} */
  build() {
    this.announcer = new Announcer();
    this.labels = new LabelBars();
    this.next = new Bars();
    this.nextNote = element("p", { class: "quiet" });
    this.chips = element("ol", { class: "chips" });
    this.cutNote = element("p", { class: "quiet", hidden: true }, say("labelOfCut", { most: this.facts.row.longest_body }));
    this.mean = element("p", { class: "quiet" });
    this.problem = element("p", { class: "warning", role: "status", hidden: true });
    this.answer = element("p", { class: "answer" });
    const withLabels = this.facts.labels.length > 0 && !this.isInstructed;
    const parts = [
      element("div", { class: "columns" },
        element("div", { class: "stack" },
          this.#buildInput(),
          this.isInstructed ? card(say("answered"), this.answer) : null,
          this.canGoOn ? this.#buildSurprise() : null),
        element("div", { class: "stack" },
          withLabels ? card(say("labels"), this.labels.box, this.cutNote) : null,
          this.canGoOn
            ? card(say("next"), element("p", { class: "quiet" }, say("nextHint")), this.nextNote, this.next.list)
            : null)),
      this.announcer.box,
    ];
    this.#show();
    if (this.#whole()) this.#readSoon(); // a server may have refused it before
    return parts;
  }

  #buildInput() {
    const word = this.isTokens ? "tokens" : this.isInstructed ? "instruction" : "text";
    const { pairs } = this.facts;
    const placeholder = this.isTokens ? "typeTokens" : this.isInstructed ? "typeInstruction" : pairs ? "typePair" : "typeText";
    const id = newId();
    const input = element("textarea", {
      id, class: this.isTokens ? "tokens" : "", rows: this.isTokens ? 3 : 5, spellcheck: "false", autocapitalize: "off", autocomplete: "off",
      placeholder: say(placeholder), maxlength: MOST_LETTERS, input: () => this.#typed(),
      paste: (/** @type {ClipboardEvent} */ event) => this.#refuseLarge(event),
    });
    this.input = input;
    input.value = this.#whole();
    this.writer = element("button", { type: "button", class: "button main", click: () => void this.#goOn() });
    const suggestions = this.isTokens
      ? new Suggestions(input, (start) => this.engine.askLatest("complete", "complete", { start }), () => this.#typed())
      : null;
    return card(say(word),
      element("label", { for: id, class: "unseen" }, say(word)),
      pairs ? element("p", { class: "quiet" }, say("pairHint")) : null,
      element("div", { class: "typing" }, input, suggestions?.list ?? null),
      this.problem ?? null,
      element("div", { class: "tools" },
        this.canGoOn ? this.writer : null,
        element("button", { type: "button", class: "button", click: () => this.#clear() }, say("clear"))),
      this.canGoOn
        ? slider({
            name: say("temperature"), hint: say("temperatureHint"), min: 0, max: 2, step: 0.05,
            value: this.temperature, shown: decimal, onInput: (value) => (this.temperature = value),
          })
        : null);
  }

  #buildSurprise() {
    return card(say("surprise"),
      element("div", { class: "legend", "aria-hidden": "true" },
        element("span", {}, "0"), element("span", { class: "scale" }),
        element("span", {}, `${this.even.toFixed(1)}+`)),
      element("p", { class: "quiet" }, say("surpriseHint", { even: this.even.toFixed(1) })),
      this.mean ?? null, this.chips ?? null);
  }

  /** What the text area shows. */
  #whole() {
    if (this.isInstructed || !this.added.length) return this.text;
    const gap = this.isTokens && this.text && !/\s$/.test(this.text) ? " " : "";
    return this.text + gap + this.written;
  }

  // ---- typing ------------------------------------------------------------------------------

  #typed() {
    if (!this.input || this.input.value === this.#whole()) return;
    this.engine.forget("goOn");
    this.text = this.input.value;
    this.added = [];
    this.written = "";
    this.#readSoon();
  }

  /** @param {ClipboardEvent} event a browser would take seconds to lay out a megabyte */
  #refuseLarge(event) {
    const count = event.clipboardData?.getData("text").length ?? 0;
    if (count <= MOST_LETTERS) return;
    event.preventDefault();
    // What is still read of the text before would take the words away.
    clearTimeout(this.#timer);
    this.engine.forget("read");
    this.#showProblem({ reason: "manyLetters", values: { count, most: MOST_LETTERS } });
  }

  #clear() {
    this.engine.forget("goOn");
    this.text = this.written = "";
    this.added = [];
    if (this.input) {
      this.input.value = "";
      this.input.focus();
    }
    this.#readSoon();
  }

  #readSoon() {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => void this.#read(), PAUSE);
  }

  async #read() {
    try {
      const { text, added } = this;
      this.reading = await this.engine.askLatest("read", "read", { text, added });
      this.#show();
    } catch (error) {
      if (!(error instanceof Forgotten)) this.fail(error);
    }
  }

  /** @param {number} id */
  async #choose(id) {
    this.engine.forget("goOn");
    this.added = [...this.added, id];
    await this.#showWritten();
    await this.#read();
  }

  /** The text so far, scrolled to what was written last. */
  #showWhole() {
    if (!this.input) return;
    this.input.value = this.#whole();
    this.input.scrollTop = this.input.scrollHeight;
  }

  async #showWritten() {
    this.written = await this.engine.ask("write", { ids: this.added });
    this.#showWhole();
    if (this.answer) this.answer.textContent = this.isInstructed ? this.written : "";
  }

  // ---- the model writes -----------------------------------------------------------------------

  async #goOn() {
    if (this.isWriting) {
      this.engine.forget("goOn");
      return;
    }
    if (this.isInstructed) this.added = [];
    this.isWriting = true;
    this.#showWriter();
    const { text, added, temperature } = this;
    try {
      const answer = await this.engine.askLatest("goOn", "goOn", { text, added, temperature }, (part) => {
        Object.assign(this, part);
        this.#showWhole();
        if (this.answer) this.answer.textContent = this.isInstructed ? this.written : "";
      });
      Object.assign(this, answer);
      await this.#showWritten();
      this.announcer?.tell(this.written);
    } catch (error) {
      if (error instanceof RowProblem) this.#showProblem(error);
      else if (!(error instanceof Forgotten)) this.fail(error);
    }
    this.isWriting = false;
    this.#showWriter();
    const hasProblem = this.problem?.hidden === false && !this.reading?.problem;
    if (!hasProblem) await this.#read();
  }

  #showWriter() {
    if (!this.writer) return;
    this.writer.textContent = say(this.isWriting ? "stop" : this.isInstructed ? "answer" : "goOn");
  }

  // ---- what is shown ------------------------------------------------------------------------------

  /** @param {{ reason: string, values: Record<string, string | number> } | null} problem */
  #showProblem(problem) {
    if (!this.problem) return;
    this.problem.hidden = problem === null;
    this.problem.textContent = problem ? sayProblem(problem) : "";
  }

  #show() {
    this.#showWriter();
    const { reading, facts } = this;
    if (this.answer) this.answer.textContent = this.isInstructed ? this.written : "";
    const isEmpty = reading === null || reading.problem?.reason === "empty";
    const problem = isEmpty ? null : reading.problem;
    this.#showProblem(problem);
    if (!problem && reading?.unknown.length && this.problem) {
      this.problem.hidden = false;
      this.problem.textContent = say("readUnknown", { tokens: reading.unknown.slice(0, 10).join(", ") });
    }
    this.labels?.show(facts.labels, reading?.labels ?? null, isEmpty ? say("empty") : "–");
    if (this.cutNote) this.cutNote.hidden = !reading?.cut;
    const next = (reading?.next ?? []).filter(({ share }) => share >= LEAST_SHOWN);
    if (this.nextNote) {
      const ended = reading?.ended ?? null;
      this.nextNote.textContent = isEmpty ? say("nextNothing") : ended ? sayProblem(ended) : "";
      this.nextNote.hidden = !this.nextNote.textContent;
    }
    this.next?.show(next.map((each) => {
      const ends = !this.isTokens && (each.id === facts.special.eos || each.id === facts.special.cls);
      return {
        name: shownPiece(each.piece), share: each.share,
        ...(ends ? { note: say("ends") } : {}),
        ...(each.extends ? { choose: () => void this.#choose(each.id) } : {}),
      };
    }));
    this.#showChips(reading?.tokens ?? []);
    if (reading?.labels) {
      const best = argmax(reading.labels);
      this.announcer?.tell(say("best", { label: facts.labels[best], share: percent(reading.labels[best]) }));
    } else if (next.length) {
      this.announcer?.tell(say("best", { label: next[0].piece, share: percent(next[0].share) }));
    } else {
      this.announcer?.tell("");
    }
  }

  /** @param {{ piece: string, surprise: number | null }[]} tokens */
  #showChips(tokens) {
    this.chips?.replaceChildren(...tokens.slice(-MOST_CHIPS).map(({ piece, surprise }) => {
      const token = shownPiece(piece);
      const words = surprise === null
        ? say("firstToken", { token })
        : say("surpriseOf", { token, nats: decimal(surprise) });
      const chip = element("li", { class: surprise === null ? "chip first" : "chip", title: words },
        element("span", { "aria-hidden": "true" }, token),
        element("span", { class: "unseen" }, words));
      chip.style.setProperty("--surprise", String(Math.min(1, (surprise ?? 0) / this.even)));
      return chip;
    }));
    const known = tokens.flatMap(({ surprise }) => (surprise === null ? [] : [surprise]));
    if (!this.mean) return;
    const sum = known.reduce((total, each) => total + each, 0);
    this.mean.textContent = known.length ? say("surpriseMean", { mean: decimal(sum / known.length) }) : "";
  }
}

/** @param {string} piece */
function shownPiece(piece) {
  return piece.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
}
