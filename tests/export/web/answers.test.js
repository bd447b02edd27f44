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
