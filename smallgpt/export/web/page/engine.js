/**
 * The page's side of worker.js: questions to it, and their answers.
 *
 * @typedef {object} Waiting
 * @property {(answer: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {(part: any) => void} onPart
 */

import { RowProblem } from "./rows.js";
import { WrongToken } from "./server.js";

/** A question was forgotten before its answer came. */
export class Forgotten extends Error {}

export class Engine {
  #worker;
  #number = 0;
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();
  /** @type {Map<string, number>} */
  #latest = new Map();

  /** @param {(delay: import("./server.js").Delay | null) => void} [onDelay] as of `Server` */
  constructor(onDelay = () => undefined) {
    this.onDelay = onDelay;
    this.#worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      const error = new Error(event.message || "the worker does not start");
      for (const waiting of this.#waiting.values()) waiting.reject(error);
      this.#waiting.clear();
    };
  }

  /**
   * @param {string} method of `Answers`, or "load"
   * @param {object} [question]
   * @param {(part: any) => void} [onPart] told of an answer so far
   * @returns {Promise<any>}
   */
  ask(method, question = {}, onPart = () => undefined) {
    const id = ++this.#number;
    this.#worker.postMessage({ id, method, question });
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, onPart }));
  }

  /**
   * Ask, and forget the last question of the same topic.
   *
   * @param {string} topic
   * @param {string} method
   * @param {object} question
   * @param {(part: any) => void} [onPart]
   * @returns {Promise<any>} it rejects with `Forgotten` if another one follows
   */
  askLatest(topic, method, question, onPart) {
    this.forget(topic);
    this.#latest.set(topic, this.#number + 1);
    return this.ask(method, question, onPart);
  }

  /** @param {string} topic */
  forget(topic) {
    const id = this.#latest.get(topic);
    const waiting = id === undefined ? undefined : this.#waiting.get(id);
    if (waiting === undefined || id === undefined) return;
    this.#worker.postMessage({ id, method: "forget" });
    this.#waiting.delete(id);
    waiting.reject(new Forgotten());
  }

  /**
   * @param {{ id: number, part?: any, answer?: any, error?: string, problem?: any,
   *   wrongToken?: boolean, delay?: import("./server.js").Delay | null }} message
   */
  #receive({ id, part, answer, error, problem, wrongToken, delay }) {
    if (delay !== undefined) {
      this.onDelay(delay);
      return;
    }
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    if (part !== undefined) {
      waiting.onPart(part);
      return;
    }
    this.#waiting.delete(id);
    if (problem) waiting.reject(new RowProblem(problem.reason, problem.values));
    else if (wrongToken) waiting.reject(new WrongToken());
    else if (error !== undefined) waiting.reject(new Error(error));
    else waiting.resolve(answer);
  }
}
