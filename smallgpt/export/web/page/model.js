/**
 * The model in this page: label probabilities, logits, decoding with a cache. `ort` is
 * onnxruntime-web, or in tests another build of ONNX Runtime with the same interface.
 *
 * @typedef {import("./answers.js").Asking} Asking
 * @typedef {import("./answers.js").RowRead} RowRead
 * @typedef {import("./facts.js").Facts & import("./facts.js").GraphFacts} Facts
 * @typedef {import("./generation.js").Wish} Wish
 *
 * @typedef {object} Tensor
 * @property {any} data
 * @property {readonly number[]} dims
 *
 * @typedef {object} Session
 * @property {(feeds: Record<string, Tensor>) => Promise<Record<string, Tensor>>} run
 *
 * @typedef {object} Runtime
 * @property {new (type: string, data: any, dims: number[]) => Tensor} Tensor
 */

import { generate } from "./generation.js";
import { asked } from "./rows.js";
import { likeliest, surprise } from "./sampling.js";

const TOKENS_AT_ONCE = 64; // of a long row, so that its logits take little memory at a time

export class Model {
  /** @type {Promise<unknown>} */
  #last = Promise.resolve();

  /**
   * @param {Runtime} ort
   * @param {Facts} facts
   * @param {Session | null} classifier null of a model without labels
   * @param {Session | null} decoder null of a model with a label head
   */
  constructor(ort, facts, classifier, decoder) {
    this.ort = ort;
    this.facts = facts;
    this.classifier = classifier;
    this.decoder = decoder;
  }

  /**
   * @param {number[]} numbers
   * @param {number[]} shape
   */
  int64(numbers, shape) {
    return new this.ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);
  }

  /**
   * Run a graph; one at a time, since a session cannot be entered twice.
   *
   * @param {Session} session
   * @param {Record<string, Tensor>} feeds
   * @returns {Promise<Record<string, Tensor>>}
   */
  run(session, feeds) {
    const running = this.#last.then(() => session.run(feeds));
    this.#last = running.catch(() => undefined);
    return running;
  }

  /**
   * @param {number[][]} bodies
   * @returns {Promise<Float32Array[]>} of each the calibrated probability of each label
   */
  async labels(bodies) {
    if (this.classifier === null) throw new Error("a model without labels");
    const shares = [];
    for (const body of bodies) {
      const ids = asked(body, this.facts);
      const feeds = { input_ids: this.int64(ids, [1, ids.length]), lengths: this.int64([ids.length], [1]) };
      shares.push((await this.run(this.classifier, feeds)).probabilities.data);
    }
    return shares;
  }

  /**
   * Read a row, a part at a time.
   *
   * @param {number[]} ids
   * @param {Asking} asking `stopped` is asked before each part
   * @returns {Promise<RowRead>}
   */
  async read(ids, { stopped }) {
    const rows = new Decoding(this, 1);
    /** @type {RowRead} */
    const read = { surprises: [null], next: [] };
    for (let start = 0; start < ids.length && !(await stopped()); start += TOKENS_AT_ONCE) {
      const part = ids.slice(start, start + TOKENS_AT_ONCE);
      const logits = await rows.read([part]);
      for (let t = 0; t < part.length; t++) {
        const place = start + t;
        if (place + 1 < ids.length) read.surprises.push(surprise(logits(0, t), ids[place + 1]));
        else read.next = likeliest(logits(0, t));
      }
    }
    return read;
  }

  /**
   * @param {Wish} wish
   * @returns {Promise<number[][]>} the new tokens of each row
   */
  generate(wish) {
    return generate(new Decoding(this, wish.count), wish);
  }
}

/** Rows of the same length that grow together, with the cache of what they have read. */
export class Decoding {
  /**
   * @param {Model} model
   * @param {number} count of rows
   */
  constructor(model, count) {
    const { layers, heads, head_size } = model.facts;
    this.model = model;
    this.count = count;
    this.length = 0;
    /** @type {Record<string, Tensor>} */
    this.cache = {};
    for (let layer = 0; layer < layers; layer++) {
      for (const kind of ["key", "value"]) {
        const empty = new model.ort.Tensor("float32", new Float32Array(0), [count, heads, 0, head_size]);
        this.cache[`past_key_values.${layer}.${kind}`] = empty;
      }
    }
  }

  /**
   * @param {number[][]} rows the next tokens of each row, equally many
   * @returns {Promise<(row: number, place: number) => Float32Array>} the logits after each of them
   */
  async read(rows) {
    const { model, count, length } = this;
    if (model.decoder === null) throw new Error("a model that predicts no tokens");
    const added = rows[0].length;
    const places = Array.from({ length: added }, (_, place) => length + place);
    const outputs = await model.run(model.decoder, {
      input_ids: model.int64(rows.flat(), [count, added]),
      position_ids: model.int64(Array(count).fill(places).flat(), [count, added]),
      attention_mask: model.int64(Array(count * (length + added)).fill(1), [count, length + added]),
      ...this.cache,
    });
    this.length += added;
    for (const name of Object.keys(this.cache)) {
      this.cache[name] = outputs[name.replace("past_key_values", "present")];
    }
    const size = outputs.logits.dims[2];
    return (row, place) => {
      const start = (row * added + place) * size;
      return outputs.logits.data.subarray(start, start + size);
    };
  }
}
