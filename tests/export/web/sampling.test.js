import assert from "node:assert/strict";
import test from "node:test";
import { choose, largest, logSoftmax, probabilities, surprise } from "../../../smallgpt/export/web/page/sampling.js";
import { cases } from "./cases.js";

/**
 * @param {ArrayLike<number>} found
 * @param {number[]} expected
 */
function close(found, expected) {
  assert.equal(found.length, expected.length);
  expected.forEach((value, i) => assert.ok(Math.abs(found[i] - value) < 1e-6, `${i}: ${found[i]}, ${value}`));
}

test("tokens are drawn from the probabilities of the command line", () => {
  for (const { logits, temperature, topK, expected } of cases.sampling) {
    close(probabilities(logits, { temperature, topK }), expected);
  }
});

test("surprise is -log softmax, in nats", () => {
  for (const { logits, expected } of cases.surprise) {
    close(logSoftmax(logits), expected.map((/** @type {number} */ nats) => -nats));
    close(logits.map((/** @type {number} */ _, /** @type {number} */ token) => surprise(logits, token)), expected);
  }
});

test("inverse transform sampling takes each token as often as its share says", () => {
  const logits = [Math.log(0.5), -Infinity, Math.log(0.3), Math.log(0.2)];
  const counts = [0, 0, 0, 0];
  for (let i = 0; i < 1000; i++) counts[choose(logits, { temperature: 1, topK: 0 }, (i + 0.5) / 1000)]++;
  assert.deepEqual(counts, [500, 0, 300, 200]);
  assert.equal(choose(logits, { temperature: 1, topK: 0 }, 1 - 1e-17), 3);
});

test("a temperature of 0 takes the likeliest token, the first of equal ones", () => {
  assert.equal(choose([1, 5, 5, 2], { temperature: 0, topK: 50 }, 0.99), 1);
  assert.deepEqual(largest([1, 5, 5, 2], 3), [1, 2, 3]);
});
