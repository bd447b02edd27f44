import assert from "node:assert/strict";
import test from "node:test";
import { RowProblem } from "../../../smallgpt/export/web/page/rows.js";
import { Texts, instructionPrompt, shownBytes, withoutSpecial } from "../../../smallgpt/export/web/page/text.js";
import { cases } from "./cases.js";

/** @type {any} */
const facts = { special: { unk: 1 }, kind: "tokens" };

if (process.env.SMALLGPT_TOKENIZERS) {
  const { Tokenizer } = await import(process.env.SMALLGPT_TOKENIZERS);
  for (const { name, json, tokens, texts } of cases.tokenizers) {
    test(`${name}: odd texts have the ids of Python, and come back`, () => {
      const content = JSON.parse(json);
      const special = new Set(content.added_tokens.map((/** @type {any} */ each) => each.id));
      const tokenizer = new Tokenizer(withoutSpecial(content), { clean_up_tokenization_spaces: false });
      const reader = new Texts(facts, tokens, tokenizer, special, false);
      for (const { text, ids, decoded } of texts) {
        assert.deepEqual(reader.encode(text).ids, ids, JSON.stringify(text));
        assert.equal(reader.decode(ids), decoded, JSON.stringify(text));
      }
    });
  }
}

test("tokens are split at ASCII whitespace alone, and unknown ones are named once", () => {
  const reader = new Texts(facts, ["<PAD>", "<UNK>", "a", "b\u00a0c"], null, new Set(), false);
  assert.deepEqual(reader.encode(" a\n b\u00a0c\ta "), { ids: [2, 3, 2], unknown: [] });
  assert.deepEqual(reader.encode("x a x"), { ids: [1, 2, 1], unknown: ["x"] });
  assert.throws(() => reader.encode("a ".repeat(100_000)), RowProblem);
});

test("tokens are offered by how they begin, in any case", () => {
  const reader = new Texts(facts, ["View", "view", "buy", "viewer"], null, new Set(), false);
  assert.deepEqual(reader.beginningWith("view", 8), ["View", "viewer"]);
  assert.deepEqual(reader.beginningWith("v", 2), ["View", "view"]);
});

test("half of a letter is shown byte by byte, as on the command line", () => {
  for (const { token, shown } of cases.bytes) assert.equal(shownBytes(token), shown);
});

test("the prompt of an instruction is that of training", () => {
  assert.equal(instructionPrompt(cases.instruction.text), cases.instruction.prompt);
});
