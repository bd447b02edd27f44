/**
 * The model of a server: label probabilities, surprise, next tokens and continuations, by the
 * requests that any program would send.
 *
 * @typedef {import("./answers.js").Asking} Asking
 * @typedef {import("./answers.js").RowRead} RowRead
 * @typedef {import("./facts.js").Facts} Facts
 * @typedef {import("./generation.js").Wish} Wish
 * @typedef {import("./server.js").Server} Server
 *
 * @typedef {object} Prediction
 * @property {Record<string, number>} probabilities of very many labels the largest
 */

import { RowProblem, checkStart } from "./rows.js";
import { NEXT_SHOWN } from "./sampling.js";

export class ServerModel {
  /**
   * @param {Server} server
   * @param {Facts} facts
   * @param {string[]} pieces the text of each token
   */
  constructor(server, facts, pieces) {
    this.server = server;
    this.facts = facts;
    /** @type {Map<string, number>} */
    this.ids = new Map();
    // Of tokens with one text the first is meant.
    pieces.forEach((piece, id) => this.ids.has(piece) || this.ids.set(piece, id));
  }

  /**
   * @param {number[][]} bodies
   * @param {Asking} asking
   * @returns {Promise<number[][]>} of each the calibrated probability of each label
   */
  async labels(bodies, { signal }) {
    const rows = bodies.map((body) => ({ input_ids: body }));
    const answer = await this.server.json("predict", { input_data: rows }, signal);
    return answer.predictions.map((/** @type {Prediction} */ each) => sharesOf(each, this.facts.labels));
  }

  /**
   * @param {number[]} ids
   * @param {Asking} asking
   * @returns {Promise<RowRead>}
   */
  async read(ids, { signal }) {
    const [surprises, next] = await Promise.all([this.#surprises(ids, signal), this.#next(ids, signal)]);
    return { surprises, next };
  }

  /**
   * @param {number[]} ids
   * @param {AbortSignal} signal
   * @returns {Promise<(number | null)[]>}
   */
  async #surprises(ids, signal) {
    if (ids.length < 2) return ids.map(() => null);
    const asked = { rows: { input_ids: ids }, tokens: true };
    const answer = await this.server.json("v1/score", asked, signal);
    return surprisesOf(answer.scores[0].tokens, ids);
  }

  /**
   * @param {number[]} ids
   * @param {AbortSignal} signal
   */
  async #next(ids, signal) {
    if (!this.#canGoOn(ids)) return [];
    const asked = { prompt: ids, max_tokens: 1, logprobs: NEXT_SHOWN, temperature: 0 };
    const answer = await this.server.json("v1/completions", asked, signal);
    return nextOf(answer.choices[0].logprobs.top_logprobs[0], this.ids);
  }

  /** @param {number[]} ids */
  #canGoOn(ids) {
    if (this.facts.kind !== "tokens") return ids.length < this.facts.max_length;
    try {
      checkStart(ids, this.facts);
      return true;
    } catch (error) {
      if (error instanceof RowProblem) return false;
      throw error;
    }
  }

  /**
   * @param {Wish} wish `follows` and `stops` are the server's own
   * @returns {Promise<number[][]>} the new tokens of each row
   */
  generate({ prompt, count, most, sampling, onStep, signal = new AbortController().signal }) {
    const { temperature } = sampling;
    const asked = { prompt, n: count, max_tokens: most, temperature, stream: true };
    return this.server.stream("v1/completions", asked, signal, () => {
      const rows = new Continuations(count);
      const take = (/** @type {any} */ event) => {
        rows.take(event);
        onStep?.(rows.ids, rows.texts);
      };
      return { take, result: rows.ids };
    });
  }
}

/** Rows that grow by the events of a stream. */
export class Continuations {
  /** @param {number} count */
  constructor(count) {
    /** @type {number[][]} */
    this.ids = Array.from({ length: count }, () => []);
    this.texts = this.ids.map(() => "");
  }

  /** @param {{ choices: { index: number, text: string, token_ids: number[] }[] }} event */
  take({ choices }) {
    for (const { index, text, token_ids } of choices) {
      this.ids[index].push(...token_ids);
      this.texts[index] += text;
    }
  }
}

/**
 * @param {Prediction} prediction
 * @param {string[]} labels
 * @returns {number[]} the probability of each label; those that the server leaves out have equal
 *   parts of the rest
 */
export function sharesOf({ probabilities }, labels) {
  const known = new Map(Object.entries(probabilities));
  const sum = [...known.values()].reduce((total, share) => total + share, 0);
  const rest = Math.max(0, 1 - sum) / Math.max(1, labels.length - known.size);
  return labels.map((label) => known.get(label) ?? rest);
}

/**
 * @param {{ id: number, nll: number | null }[]} tokens of a scored row: the server completes a
 *   label tail
 * @param {number[]} ids
 * @returns {(number | null)[]} the surprise of each token, null where it is not known
 */
export function surprisesOf(tokens, ids) {
  return ids.map((id, place) => (tokens[place]?.id === id ? tokens[place].nll : null));
}

/**
 * @param {Record<string, number>} logprobs by the text of a token
 * @param {Map<string, number>} ids
 * @returns {{ id: number, share: number }[]} falling
 */
export function nextOf(logprobs, ids) {
  return Object.entries(logprobs)
    .map(([text, logprob]) => ({ id: ids.get(text) ?? -1, share: Math.exp(logprob) }))
    .filter(({ id }) => id >= 0)
    .sort((a, b) => b.share - a.share || a.id - b.id)
    .slice(0, NEXT_SHOWN);
}
