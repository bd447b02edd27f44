/**
 * What the page asks of a model: each method is a question of the worker. The model is computed in
 * the page (model.js), or by its server (server_model.js).
 *
 * @typedef {import("./facts.js").Facts} Facts
 * @typedef {import("./codebook.js").Codebook} Codebook
 * @typedef {import("./generation.js").Wish} Wish
 * @typedef {import("./server_texts.js").ServerTexts} ServerTexts
 * @typedef {import("./text.js").Texts} Texts
 *
 * @typedef {object} RowRead
 * @property {(number | null)[]} surprises of each token, null of the first, which nothing predicts
 * @property {{ id: number, share: number }[]} next the likeliest next tokens, falling
 *
 * @typedef {object} Computing
 * @property {(bodies: number[][], asking: Asking) => Promise<ArrayLike<number>[]>} labels
 *   the calibrated probability of each label, of each body of a row
 * @property {(ids: number[], asking: Asking) => Promise<RowRead>} read
 * @property {(wish: Wish) => Promise<number[][]>} generate the new tokens of each row
 *
 * @typedef {object} Look
 * @property {number[]} codes
 * @property {Uint8ClampedArray<ArrayBuffer>} seen the image rebuilt from its codes, as RGBA
 * @property {ArrayLike<number> | null} labels
 * @property {boolean} unlike the training images
 * @property {boolean} inverted whether it is like them with dark and bright exchanged
 *
 * @typedef {object} Reading of a row
 * @property {number[]} ids
 * @property {string[]} unknown
 * @property {{ piece: string, surprise: number | null }[]} tokens of instructions those of the
 *   answer: training never learned to predict the prompt
 * @property {ArrayLike<number> | null} labels
 * @property {{ id: number, piece: string, share: number, extends: boolean }[]} next `extends`:
 *   the row can go on with it
 * @property {boolean} cut whether the row is too long for a label, and was cut for it
 * @property {Problem | null} problem why the likeliest next tokens are missing
 * @property {Problem | null} ended why nothing follows a row in which nothing is wrong
 *
 * @typedef {{ reason: string, values: Record<string, string | number> }} Problem
 *
 * @typedef {object} Asking how an answer is given
 * @property {(part: any) => void} tell of an answer so far
 * @property {() => Promise<boolean>} stopped whether nobody waits for it any more
 * @property {AbortSignal} signal that tells the same at once
 */

import { RowProblem, bodyOf, checkStart, followsIn, stopsOf } from "./rows.js";
import { TOP_K } from "./sampling.js";
import { instructionPrompt } from "./text.js";

const COMPLETIONS_SHOWN = 8;
const MOST_NAMED = 10; // unknown tokens

export class Answers {
  /**
   * @param {Facts} facts
   * @param {Computing} model
   * @param {Texts | ServerTexts} texts
   * @param {Codebook | null} codebook of a model of images
   */
  constructor(facts, model, texts, codebook) {
    this.facts = facts;
    this.model = model;
    this.texts = texts;
    this.codebook = codebook;
  }

  get #codebook() {
    if (this.codebook === null) throw new Error("not a model of images");
    return this.codebook;
  }

  /** @param {number[]} codes */
  #rowOf(codes) {
    const { img, end_img } = this.facts.special;
    const ids = this.#codebook.facts.code_ids;
    return [img ?? 0, ...codes.map((code) => ids[code]), end_img ?? 0];
  }

  /**
   * @param {number[][]} bodies
   * @param {Asking} asking
   * @returns {Promise<(ArrayLike<number> | null)[]>}
   */
  async #labelsOf(bodies, asking) {
    return this.facts.labels.length ? this.model.labels(bodies, asking) : bodies.map(() => null);
  }

  // ---- images ------------------------------------------------------------------------

  /**
   * @param {{ image: Float32Array }} question pixels in the range of the codebook
   * @param {Asking} asking
   * @returns {Promise<Look>}
   */
  async look({ image }, asking) {
    const codebook = this.#codebook;
    const codes = codebook.encode(image);
    const unlike = codebook.unlike(image, codes);
    const inverted = unlike && codebook.looksInverted(image, codes);
    const [labels] = await this.#labelsOf([this.#rowOf(codes)], asking);
    return { codes, seen: codebook.rgba(codebook.decode(codes)), labels, unlike, inverted };
  }

  /**
   * Images that go on from the upper part of one, or from nothing.
   *
   * @param {{ image?: Float32Array, kept: number, count: number, temperature: number }} question
   *   `kept`: rows of patches that stay
   * @param {Asking} asking told the images so far, as `{ rows, images }`
   * @returns {Promise<{ codes: number[][], images: Uint8ClampedArray<ArrayBuffer>[], labels: (ArrayLike<number> | null)[] }>}
   */
  async draw({ image, kept, count, temperature }, asking) {
    const codebook = this.#codebook;
    const { code_ids } = codebook.facts;
    const codeOf = new Map(code_ids.map((id, code) => [id, code]));
    const start = image ? codebook.encode(image).slice(0, kept * codebook.columns) : [];
    const whole = (/** @type {number[][]} */ rows) =>
      rows.map((row) => [...start, ...row.map((id) => codeOf.get(id) ?? 0)]);
    const drawn = (/** @type {number[][]} */ rows) =>
      whole(rows).map((codes) => codebook.rgba(codebook.decode(codes)));
    const isCode = (/** @type {number} */ token) => codeOf.has(token);
    const all = codebook.rows * codebook.columns;
    let shown = start.length / codebook.columns; // whole rows of patches
    const rows = await this.model.generate({
      prompt: this.#rowOf(start).slice(0, -1),
      count,
      most: all - start.length,
      follows: () => isCode,
      stops: new Set(),
      sampling: { temperature, topK: TOP_K },
      onStep: (made) => {
        const least = start.length + Math.min(...made.map((row) => row.length));
        if (least < (shown + 1) * codebook.columns) return;
        shown = Math.floor(least / codebook.columns);
        asking.tell({ images: drawn(made) });
      },
      ...asking,
    });
    const codes = whole(rows);
    const isWhole = codes.every((row) => row.length === all); // false of what was stopped
    const bodies = codes.map((row) => this.#rowOf(row));
    const labels = isWhole ? await this.#labelsOf(bodies, asking) : codes.map(() => null);
    return { codes, images: drawn(rows), labels };
  }

  // ---- rows of tokens and texts ---------------------------------------------------------

  /**
   * Ids that the model goes on from.
   *
   * @param {string} text
   * @param {number[]} added tokens after it
   */
  async #prompt(text, added) {
    const { kind, special, reads_unknown, starts } = this.facts;
    if (kind === "instructions") {
      if (!text.trim()) throw new RowProblem("empty");
      const { ids, unknown } = await this.texts.encode(instructionPrompt(text));
      return { ids: [...ids, ...added], unknown };
    }
    const { ids, unknown } = await this.texts.encode(text, false);
    if (kind === "tokens" && unknown.length && (!reads_unknown || special.unk === null)) {
      throw new RowProblem("unknown", {
        tokens: unknown.slice(0, MOST_NAMED).map((each) => shortened(each)).join(", "),
        more: Math.max(0, unknown.length - MOST_NAMED),
      });
    }
    if (!ids.length && !added.length) throw new RowProblem("empty");
    return { ids: [...starts, ...ids, ...added], unknown };
  }

  /**
   * @param {{ text: string, added: number[] }} question `added`: tokens that follow the text
   * @param {Asking} asking
   * @returns {Promise<Reading>}
   */
  async read({ text, added }, asking) {
    /** @type {Reading} */
    const reading = { ids: [], unknown: [], tokens: [], labels: null, cut: false, next: [], problem: null, ended: null };
    try {
      const { ids, unknown } = await this.#prompt(text, added);
      Object.assign(reading, { ids, unknown });
      const first = this.facts.kind === "instructions" ? ids.length - added.length : 0;
      if (this.facts.kind !== "instructions") {
        const marked = this.facts.kind === "tokens" ? ids : [...(await this.texts.encode(text)).ids, ...added];
        if (this.facts.labels.length) {
          const body = bodyOf(marked, this.facts);
          [reading.labels] = await this.#labelsOf([body], asking);
          reading.cut = body.length > this.facts.row.longest_body;
        }
      }
      if (!this.facts.predicts_tokens) {
        reading.tokens = ids.map((id) => ({ piece: this.texts.piece(id), surprise: null }));
        return reading;
      }
      if (ids.length > this.facts.max_length) {
        throw new RowProblem("tooLong", { count: ids.length, most: this.facts.max_length });
      }
      const { surprises, next } = await this.model.read(ids, asking);
      reading.tokens = surprises
        .map((surprise, place) => ({ piece: this.texts.piece(ids[place]), surprise }))
        .slice(first);
      reading.ended = this.#endOf(ids);
      if (reading.ended !== null) return reading;
      const silent = this.#silent();
      reading.next = next.map(({ id, share }) => ({ id, piece: this.texts.piece(id), share, extends: !silent.has(id) }));
    } catch (error) {
      reading.problem = problemOf(error);
    }
    return reading;
  }

  /**
   * @param {number[]} ids
   * @returns {Problem | null} why nothing can follow them; of a row with a mistake nothing is told
   */
  #endOf(ids) {
    const { kind, max_length } = this.facts;
    try {
      if (kind === "tokens") checkStart(ids, this.facts);
      else if (ids.length >= max_length) throw new RowProblem("full", { count: ids.length, most: max_length });
    } catch (error) {
      const problem = problemOf(error);
      return ["whole", "full"].includes(problem.reason) ? problem : null;
    }
    return null;
  }

  /** Tokens that leave a text as it is; in a row of tokens each can be written. */
  #silent() {
    const { kind, label_ids, special } = this.facts;
    return new Set(kind === "tokens" ? [] : [...label_ids, ...Object.values(special)]);
  }

  /**
   * The rest of a row.
   *
   * @param {{ text: string, added: number[], temperature: number }} question
   *   an empty text begins as a training row did
   * @param {Asking} asking told the new tokens so far, as `{ text, added }`
   * @returns {Promise<{ text: string, added: number[] }>}
   */
  async goOn({ text, added, temperature }, asking) {
    const { facts, texts } = this;
    const isEmpty = !text.trim() && !added.length;
    const ids = isEmpty ? this.#beginning(temperature) : (await this.#prompt(text, added)).ids;
    const most = facts.max_length - ids.length;
    if (facts.kind === "tokens") checkStart(ids, facts);
    else if (most < 1) throw new RowProblem("full", { count: ids.length, most: facts.max_length });
    const before = isEmpty ? ids.filter((id) => !facts.starts.includes(id)) : added;
    const stops = stopsOf(facts);
    const answer = (/** @type {number[]} */ row) => {
      const isText = facts.kind !== "tokens";
      const kept = isText ? row.filter((id) => !stops.has(id)) : row;
      return { text: isEmpty ? "" : text, added: [...before, ...kept] };
    };
    const writtenBefore = await this.write({ ids: before });
    const [row] = await this.model.generate({
      prompt: ids,
      count: 1,
      most,
      follows: followsIn(facts),
      stops,
      sampling: { temperature, topK: TOP_K },
      onStep: async ([made], [more] = []) => {
        const soFar = answer(made);
        const isTold = more !== undefined && facts.kind !== "tokens";
        const written = isTold ? writtenBefore + more : await texts.decode(soFar.added);
        asking.tell({ ...soFar, written });
      },
      ...asking,
    });
    return answer(row);
  }

  /**
   * @param {number} temperature
   * @returns {number[]} the first ids of a row
   */
  #beginning(temperature) {
    const { first_tokens, kind } = this.facts;
    if (kind === "instructions" || !first_tokens.length) throw new RowProblem("empty");
    const total = first_tokens.reduce((sum, [, count]) => sum + count, 0);
    let left = temperature === 0 ? 0 : Math.random() * total;
    for (const [id, count] of first_tokens) {
      left -= count;
      if (left < 0) return [id];
    }
    return [first_tokens[0][0]];
  }

  /**
   * @param {{ ids: number[] }} question
   * @returns {Promise<string>} their text
   */
  async write({ ids }) {
    return this.texts.decode(ids);
  }

  /**
   * @param {{ start: string }} question
   * @returns {Promise<string[]>} tokens that begin so
   */
  async complete({ start }) {
    return this.texts.beginningWith(start, COMPLETIONS_SHOWN);
  }
}

/**
 * @param {unknown} error
 * @returns {Problem} what is wrong with a row; other errors are thrown on
 */
function problemOf(error) {
  if (!(error instanceof RowProblem)) throw error;
  return { reason: error.reason, values: error.values };
}

/** @param {string} text */
function shortened(text) {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
