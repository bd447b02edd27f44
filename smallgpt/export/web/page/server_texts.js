/**
 * Text to ids and back where a server has the tokenizer; as `Texts` of text.js.
 *
 * @typedef {import("./server.js").Server} Server
 * @typedef {import("./text.js").Read} Read
 */

import { RowProblem } from "./rows.js";
import { MOST_LETTERS } from "./text.js";

export class ServerTexts {
  /** @type {{ text: string, reads: Promise<{ marked: number[], unmarked: number[], unknown: string[] }> } | null} */
  #last = null;

  /**
   * @param {Server} server
   * @param {string[]} pieces the text of each token
   */
  constructor(server, pieces) {
    this.server = server;
    this.pieces = pieces;
  }

  /**
   * @param {string} text
   * @param {boolean} [marked] with what a pretrained tokenizer puts around a text
   * @returns {Promise<Read>}
   */
  async encode(text, marked = true) {
    if (text.length > MOST_LETTERS) {
      throw new RowProblem("manyLetters", { count: text.length, most: MOST_LETTERS });
    }
    if (!text.trim()) return { ids: [], unknown: [] };
    if (this.#last?.text !== text) {
      // Half of a surrogate pair is no letter.
      const reads = this.server.json("model/ids", { text: text.toWellFormed() });
      this.#last = { text, reads };
      reads.catch(() => (this.#last = null));
    }
    const read = await this.#last.reads;
    return { ids: marked ? read.marked : read.unmarked, unknown: read.unknown };
  }

  /**
   * @param {number[]} ids
   * @returns {Promise<string>} their text
   */
  async decode(ids) {
    return ids.length ? (await this.server.json("model/text", { ids })).text : "";
  }

  /**
   * @param {number} id
   * @returns {string} a token for display
   */
  piece(id) {
    return this.pieces[id] ?? "";
  }

  /** @returns {string[]} none: only tokens are offered while one types */
  beginningWith() {
    return [];
  }
}
