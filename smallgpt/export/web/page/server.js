/**
 * Requests to the server that computes for the page: with the token, asked again where the server
 * is busy or gone, its errors as those of the page.
 *
 * @typedef {object} Delay why an answer takes longer: the server is asked again
 * @property {"busy" | "gone"} reason
 */

import { RowProblem } from "./rows.js";

/** The server wants another token than the one it was given. */
export class WrongToken extends Error {}

const LONGEST_PAUSE = 10; // seconds before a server is asked again
const BUSY = [429, 503];
const GONE = [502]; // says a proxy whose server is gone
const NOT_TAKEN = [400, 413, 422]; // what is asked is at fault, and the answer says why

export class Server {
  /** @type {Set<object>} */
  #waiting = new Set(); // requests that are to be sent again

  /**
   * @param {URL} root
   * @param {string} token empty: none
   * @param {(delay: Delay | null) => void} onDelay told of the first request that has to wait, and
   *   when none does any more
   * @param {(seconds: number, signal: AbortSignal) => Promise<void>} [pause]
   */
  constructor(root, token, onDelay, pause = sleep) {
    this.root = root;
    this.token = token;
    this.onDelay = onDelay;
    this.pause = pause;
  }

  /**
   * @param {string} path
   * @param {object | null} [body] null: the file of that name is wanted
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  json(path, body = null, signal = unending()) {
    return this.#again(signal, async () => (await this.#fetch(path, body, signal)).json());
  }

  /**
   * @param {string} path
   * @returns {Promise<ArrayBuffer>}
   */
  bytes(path) {
    const signal = unending();
    return this.#again(signal, async () => (await this.#fetch(path, null, signal)).arrayBuffer());
  }

  /**
   * Ask for a stream of events.
   *
   * @template Result
   * @param {string} path
   * @param {object} body
   * @param {AbortSignal} signal
   * @param {() => { take: (event: any) => void, result: Result }} begin called again where the
   *   stream broke and is asked for anew
   * @returns {Promise<Result>} once the stream has ended
   */
  stream(path, body, signal, begin) {
    return this.#again(signal, async () => {
      const { take, result } = begin();
      const answer = await this.#fetch(path, body, signal);
      if (answer.body === null) throw new TypeError("no stream");
      for await (const text of eventsOf(answer.body)) {
        if (text === "[DONE]") return result;
        const event = JSON.parse(text);
        if (event.error) throw new Error(String(event.error.message));
        take(event);
      }
      throw new TypeError("the stream broke off"); // as fetch says it of a lost connection
    });
  }

  /**
   * @param {string} path
   * @param {object | null} body
   * @param {AbortSignal} signal
   */
  async #fetch(path, body, signal) {
    /** @type {Record<string, string>} */
    const headers = this.token ? { authorization: `Bearer ${this.token}` } : {};
    if (body !== null) headers["content-type"] = "application/json";
    const answer = await fetch(new URL(path, this.root), {
      method: body === null ? "GET" : "POST",
      headers,
      body: body === null ? null : JSON.stringify(body),
      signal,
      // A browser would ask for a password where the server wants another token.
      credentials: this.token ? "omit" : "same-origin",
      cache: "no-store",
      redirect: "error",
    });
    if (answer.ok) return answer;
    if (answer.status === 401) throw new WrongToken("the server wants another token");
    if (BUSY.includes(answer.status)) throw new NotNow("busy", Number(answer.headers.get("retry-after")));
    if (GONE.includes(answer.status)) throw new NotNow("gone", 0);
    const message = await messageOf(answer);
    if (NOT_TAKEN.includes(answer.status)) throw new RowProblem("refused", { message });
    throw new Error(`${path}: ${message}`);
  }

  /**
   * @template Result
   * @param {AbortSignal} signal
   * @param {() => Promise<Result>} ask
   * @returns {Promise<Result>} of the first time that the server was neither busy nor gone
   */
  async #again(signal, ask) {
    const own = {};
    try {
      for (let attempt = 0; ; attempt++) {
        try {
          return await ask();
        } catch (error) {
          // A connection that cannot be made or breaks is a TypeError.
          const delay = error instanceof TypeError ? new NotNow("gone", 0) : error;
          if (!(delay instanceof NotNow) || signal.aborted) throw error;
          this.#waiting.add(own);
          this.onDelay({ reason: delay.reason });
          await this.pause(pauseBefore(attempt, delay.seconds), signal);
        }
      }
    } finally {
      if (this.#waiting.delete(own) && !this.#waiting.size) this.onDelay(null);
    }
  }
}

/** A request is to be sent again. */
class NotNow extends Error {
  /**
   * @param {"busy" | "gone"} reason
   * @param {number} seconds that the server asks to wait; 0 or no number where it does not
   */
  constructor(reason, seconds) {
    super(reason);
    this.reason = reason;
    this.seconds = seconds;
  }
}

/**
 * @param {number} attempt how often it was asked before
 * @param {number} wanted by the server, in seconds
 * @returns {number} seconds before it is asked again
 */
export function pauseBefore(attempt, wanted) {
  return Math.min(wanted > 0 ? wanted : 2 ** Math.min(attempt, 10), LONGEST_PAUSE);
}

/**
 * @param {number} seconds
 * @param {AbortSignal} signal ends the pause
 * @returns {Promise<void>}
 */
function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function unending() {
  return new AbortController().signal;
}

/**
 * @param {Response} answer
 * @returns {Promise<string>} what went wrong, as the server says it
 */
async function messageOf(answer) {
  try {
    return String((await answer.json()).error.message);
  } catch {
    return `${answer.status} ${answer.statusText}`.trim(); // of a proxy
  }
}

/**
 * The data of server-sent events.
 *
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<string>}
 */
export async function* eventsOf(stream) {
  const reader = stream.getReader(); // Safari's streams are no iterables
  const decoder = new TextDecoder();
  let left = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      left += decoder.decode(value, { stream: true });
      const events = left.split(/\r?\n\r?\n/);
      left = events.pop() ?? "";
      for (const event of events) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
