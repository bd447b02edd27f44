/**
 * Text to ids and back: the tokens of a row by name, or by the tokenizer of a model of texts.
 *
 * @typedef {import("./facts.js").Facts} Facts
 *
 * @typedef {object} Read
 * @property {number[]} ids
 * @property {string[]} unknown what of the text the vocabulary lacks, each once
 *
 * @typedef {object} Tokenizer of `@huggingface/tokenizers`
 * @property {(text: string, options: { add_special_tokens: boolean }) => { ids: number[] }} encode
 * @property {(ids: number[], options: { skip_special_tokens: boolean }) => string} decode
 */

import { RowProblem } from "./rows.js";

export const MOST_LETTERS = 100_000; // of what is typed; far more than a row of a small model has
const ASCII_SPACE = /[ \t\n\v\f\r]+/;
const CJK = "[\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef]";
const SPACE_IN_CJK = new RegExp(`(?<=${CJK}) (?=${CJK})`, "g");

/**
 * The content of a tokenizer.json for a text: special tokens are never found in one, so that a
 * review with the letters `<CLS_1>` is a review with these letters.
 *
 * @param {any} json
 * @returns {any}
 */
export function withoutSpecial(json) {
  const tokens = /** @type {{ special: boolean }[]} */ (json.added_tokens ?? []);
  return { ...json, added_tokens: tokens.filter((token) => !token.special) };
}

export class Texts {
  /**
   * @param {Facts} facts
   * @param {string[]} tokens of each id
   * @param {Tokenizer | null} tokenizer null where rows are tokens
   * @param {Set<number>} special ids that stand for no text
   * @param {boolean} isWordPiece which puts spaces between Chinese letters
   */
  constructor(facts, tokens, tokenizer, special, isWordPiece) {
    this.facts = facts;
    this.tokens = tokens;
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.tokenizer = tokenizer;
    this.special = special;
    this.isWordPiece = isWordPiece;
  }

  /**
   * @param {string} text
   * @param {boolean} [marked] with what a pretrained tokenizer puts around a text
   * @returns {Read}
   */
  encode(text, marked = true) {
    if (text.length > MOST_LETTERS) {
      throw new RowProblem("manyLetters", { count: text.length, most: MOST_LETTERS });
    }
    if (this.tokenizer === null) {
      const words = text.split(ASCII_SPACE).filter(Boolean);
      const { unk } = this.facts.special;
      const ids = words.map((word) => this.ids.get(word) ?? unk ?? -1);
      return { ids, unknown: [...new Set(words.filter((word) => !this.ids.has(word)))] };
    }
    if (!text.trim()) return { ids: [], unknown: [] };
    // Half of a surrogate pair is no letter.
    const { ids } = this.tokenizer.encode(text.toWellFormed(), { add_special_tokens: marked });
    const { unk } = this.facts.special;
    const unknown = ids.includes(unk ?? -1) ? [...new Set(text)].filter((each) => this.#isUnknown(each)) : [];
    return { ids, unknown };
  }

  /** @param {string} letter */
  #isUnknown(letter) {
    const ids = this.tokenizer?.encode(letter, { add_special_tokens: false }).ids ?? [];
    return ids.includes(this.facts.special.unk ?? -1);
  }

  /**
   * @param {number[]} ids
   * @returns {string} the text of a row, or its tokens
   */
  decode(ids) {
    if (this.tokenizer === null) return ids.map((id) => this.tokens[id]).join(" ");
    const plain = ids.filter((id) => !this.special.has(id));
    if (!plain.length) return "";
    const text = this.tokenizer.decode(plain, { skip_special_tokens: false });
    return this.isWordPiece ? text.replace(SPACE_IN_CJK, "") : text;
  }

  /**
   * @param {number} id
   * @returns {string} a token for display: the piece of text that it stands for, if any
   */
  piece(id) {
    const token = this.tokens[id] ?? "";
    if (this.tokenizer === null) return token;
    const text = this.decode([id]);
    if (!text) return token; // special tokens stand for no text ...
    return text.includes("\ufffd") ? shownBytes(token) : text; // ... and some for half of a letter
  }

  /**
   * Tokens that begin as what is being typed.
   *
   * @param {string} start
   * @param {number} count
   * @returns {string[]}
   */
  beginningWith(start, count) {
    const small = start.toLowerCase();
    /** @type {string[]} */
    const found = [];
    for (const token of this.tokens) {
      if (found.length === count) break;
      if (token !== start && token.toLowerCase().startsWith(small)) found.push(token);
    }
    return found;
  }
}

// Bytes that tokenizers of bytes write as they are; every other one is a letter from U+0100 on.
const AS_THEY_ARE = /[!-~\u00a1-\u00ac\u00ae-\u00ff]/;
const BYTES = new Map();
for (let byte = 0, moved = 0; byte < 256; byte++) {
  const letter = String.fromCharCode(byte);
  BYTES.set(AS_THEY_ARE.test(letter) ? letter : String.fromCharCode(256 + moved++), byte);
}

/**
 * A token that is half of a letter, as `smallgpt/tokens/text_tokenizer.py` shows it.
 *
 * @param {string} token
 * @returns {string} the name of one that is not written in bytes
 */
export function shownBytes(token) {
  const bytes = [...token].map((letter) => BYTES.get(letter));
  if (bytes.includes(undefined) || [...token].every((letter) => letter < "\u0080")) return token;
  return bytes.map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`).join("");
}

/**
 * The prompt of an instruction, as `smallgpt/tokens/instruction_template.py` has it.
 *
 * @param {string} instruction
 */
export function instructionPrompt(instruction) {
  return `### Instruction:\n${instruction.trim()}\n\n### Response:\n`;
}
