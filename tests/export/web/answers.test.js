import assert from "node:assert/strict";
import test from "node:test";
import { Answers } from "../../../smallgpt/export/web/page/answers.js";

const SPECIAL = { pad: 0, unk: 1, img: null, end_img: null, cls: 2, eos: 3 };

/**
 * Answers of a model that gives every token its id as surprise; a text has a token a letter.
 *
 * @param {object} facts
 */
function answersOf(facts) {
  /** @type {any} */
  const model = {
    labels: async (/** @type {number[][]} */ bodies) => bodies.map(() => [0.25, 0.75]),
    read: async (/** @type {number[]} */ ids) => ({
      surprises: ids.map((id, place) => (place ? id : null)),
      next: [{ id: 9, share: 0.5 }],
    }),
  };
  /** @type {any} */
  const texts = {
    encode: (/** @type {string} */ text) => ({ ids: [...text].map(() => 8), unknown: [] }),
    piece: String,
  };
  const usual = {
    labels: [], label_ids: [], special: SPECIAL, reads_unknown: false, starts: [], end: "no label",
    row: { longest_body: 6, kept_first: [], append: [2] }, max_length: 100, predicts_tokens: true,
  };
  return new Answers(/** @type {any} */ ({ ...usual, ...facts }), model, texts, null);
}

/** @type {any} */
const asking = {};

test("of an instruction the surprise of the answer is told, not that of the prompt", async () => {
  const answers = answersOf({ kind: "instructions" });
  assert.deepEqual((await answers.read({ text: "say", added: [] }, asking)).tokens, []);
  const { ids, tokens } = await answers.read({ text: "say", added: [5, 6] }, asking);
  assert.deepEqual(tokens, [{ piece: "5", surprise: 5 }, { piece: "6", surprise: 6 }]);
  assert.deepEqual(ids.slice(-2), [5, 6]);
});

test("of a text neither labels nor special tokens are choices, of a row of tokens all are", async () => {
  const labelled = { labels: ["no", "yes"], label_ids: [8, 9] };
  for (const [kind, isChoice] of [["texts", false], ["tokens", true]]) {
    const { next } = await answersOf({ kind, ...labelled }).read({ text: "", added: [5] }, asking);
    assert.deepEqual(next, [{ id: 9, piece: "9", share: 0.5, extends: isChoice }]);
  }
});

test("nothing follows a whole row or a full one, and why is told", async () => {
  const labelled = { labels: ["no", "yes"], label_ids: [8, 9], end: "label" };
  const whole = await answersOf({ kind: "tokens", ...labelled }).read({ text: "", added: [5, 2, 9, 3] }, asking);
  assert.deepEqual([whole.next, whole.problem, whole.ended?.reason], [[], null, "whole"]);
  assert.equal(whole.labels?.[1], 0.75);
  const full = await answersOf({ kind: "texts", max_length: 2 }).read({ text: "", added: [5, 6] }, asking);
  assert.deepEqual(full.ended, { reason: "full", values: { count: 2, most: 2 } });
  const odd = await answersOf({ kind: "tokens", ...labelled }).read({ text: "", added: [9, 5] }, asking);
  assert.deepEqual([odd.ended, odd.problem?.reason], [null, "labelInside"]);
});

test("a row that is too long for a label says that it was cut", async () => {
  const answers = answersOf({ kind: "texts", labels: ["no", "yes"], label_ids: [10, 11] });
  assert.equal((await answers.read({ text: "six...", added: [] }, asking)).cut, false);
  assert.equal((await answers.read({ text: "seven..", added: [] }, asking)).cut, true);
});
