import assert from "node:assert/strict";
import test from "node:test";
import { Codebook } from "../../../smallgpt/export/web/page/codebook.js";
import { cases } from "./cases.js";

for (const { name, facts, centers, images } of cases.codebooks) {
  test(`${name}: codes, pictures and familiarity are those of Python`, () => {
    const codebook = new Codebook(facts, Float32Array.from(centers));
    for (const { pixels, codes, decoded, unlike, inverted } of images) {
      assert.deepEqual(codebook.encode(Float32Array.from(pixels)), codes);
      assert.deepEqual([...codebook.decode(codes)], decoded);
      assert.equal(codebook.unlike(Float32Array.from(pixels), codes), unlike);
      assert.equal(codebook.looksInverted(Float32Array.from(pixels), codes), inverted);
    }
  });
}

test("codes that are missing are drawn as the darkest patch, and colours reach from 0 to 255", () => {
  const facts = {
    patch_size: 1, height: 1, width: 3, channels: 1, low: 0, high: 16, white: 16,
    familiarity: null, code_ids: [0, 1],
  };
  const codebook = new Codebook(facts, Float32Array.of(0, 16));
  const image = codebook.decode([1]);
  assert.deepEqual([...image], [16, 0, 0]);
  assert.deepEqual([...codebook.rgba(image)].slice(0, 8), [255, 255, 255, 255, 0, 0, 0, 255]);
});
