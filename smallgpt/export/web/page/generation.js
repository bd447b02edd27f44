/**
 * Making up the rest of rows.
 *
 * @typedef {import("./model.js").Decoding} Decoding
 * @typedef {import("./rows.js").Follows} Follows
 * @typedef {import("./sampling.js").Sampling} Sampling
 */

import { choose } from "./sampling.js";

/**
 * @typedef {object} Wish
 * @property {number[]} prompt
 * @property {number} count how many rows begin with it
 * @property {number} most new tokens of a row
 * @property {Follows} follows
 * @property {Set<number | null>} stops tokens that end a row; they stay in it
 * @property {Sampling} sampling
 * @property {() => number} [random] from 0, below 1
 * @property {(rows: number[][], texts?: string[]) => unknown} [onStep] told the new tokens of each
 *   row so far; by a server also their texts
 * @property {() => Promise<boolean>} [stopped] asked before each step
 * @property {AbortSignal} [signal] ends what a server computes
 */

/**
 * @param {Decoding} decoding of as many rows
 * @param {Wish} wish
 * @returns {Promise<number[][]>} the new tokens of each row
 */
export async function generate(decoding, wish) {
  const { prompt, count, most, follows, stops, sampling, random = Math.random } = wish;
  /** @type {number[][]} */
  const made = Array.from({ length: count }, () => []);
  const open = made.map(() => true);
  let next = made.map(() => prompt);
  for (let step = 0; step < most && open.some(Boolean); step++) {
    if (await wish.stopped?.()) break;
    const logits = await decoding.read(next);
    next = made.map((row, index) => {
      if (!open[index]) return [prompt[0]]; // read, and never looked at
      const mayFollow = follows(prompt.length + row.length, row.at(-1) ?? prompt[prompt.length - 1]);
      const allowed = Float64Array.from(logits(index, next[index].length - 1), (logit, token) =>
        mayFollow(token) ? logit : -Infinity,
      );
      const token = choose(allowed, sampling, random());
      row.push(token);
      open[index] = !stops.has(token);
      return [token];
    });
    wish.onStep?.(made);
  }
  return made;
}
