import assert from "node:assert/strict";
import test from "node:test";
import { generate } from "../../../smallgpt/export/web/page/generation.js";
import { Decoding } from "../../../smallgpt/export/web/page/model.js";
import { RowProblem, asked, bodyOf, checkStart, followsIn } from "../../../smallgpt/export/web/page/rows.js";
import { cases } from "./cases.js";

test("the tokens that may follow in a row are those of the command line", () => {
  for (const { facts, row, expected } of cases.follows) {
    const follows = followsIn(facts)(row.length, row.at(-1));
    const found = [...Array(facts.vocabulary).keys()].filter(follows);
    assert.deepEqual(found, expected, `${facts.end}: ${row}`);
  }
});

test("starts that nothing can follow are refused as on the command line", () => {
  for (const { facts, row, refused } of cases.starts) {
    const check = () => checkStart(row, facts);
    if (refused) assert.throws(check, RowProblem, `${facts.end}: ${row}`);
    else check();
  }
});

test("labels are asked for after the body, cut as the command line does", () => {
  for (const { facts, row, expected } of cases.asked) {
    if (expected === null) assert.throws(() => bodyOf(row, facts), RowProblem, String(row));
    else assert.deepEqual(asked(bodyOf(row, facts), facts), expected);
  }
});

test("rows that have ended grow no further, and what is forgotten stops", async () => {
  const facts = { layers: 0, heads: 1, head_size: 1 };
  let steps = 0;
  /** @type {any} */
  const model = {
    facts,
    ort: {},
    int64: (/** @type {number[]} */ numbers) => numbers,
    decoder: {},
    run: async (/** @type {any} */ _, /** @type {any} */ { input_ids }) => {
      steps++;
      const size = 3;
      // Token 2 ends a row: the first row's likeliest after token 1, never the second's.
      const data = input_ids.flatMap((/** @type {number} */ token, /** @type {number} */ row) =>
        row === 0 && token === 1 ? [0, 0, 9] : [0, 9, 0]);
      return { logits: { data: Float32Array.from(data), dims: [2, 1, size] } };
    },
  };
  const wish = {
    prompt: [0], count: 2, most: 5, follows: () => () => true, stops: new Set([2]),
    sampling: { temperature: 0, topK: 0 },
  };
  assert.deepEqual(await generate(new Decoding(model, 2), wish), [[1, 2], [1, 1, 1, 1, 1]]);
  steps = 0;
  await generate(new Decoding(model, 2), { ...wish, stopped: async () => steps === 2 });
  assert.equal(steps, 2);
});
