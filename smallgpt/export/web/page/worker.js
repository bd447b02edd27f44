/**
 * The thread that computes, so that the page never waits: it loads the model, or asks the server
 * that has it, and answers the questions of engine.js with the methods of `Answers`.
 */

import { Answers } from "./answers.js";
import { Codebook } from "./codebook.js";
import { Model } from "./model.js";
import { RowProblem } from "./rows.js";
import { Server, WrongToken } from "./server.js";
import { ServerModel } from "./server_model.js";
import { ServerTexts } from "./server_texts.js";
import { Texts, withoutSpecial } from "./text.js";

/**
 * @typedef {import("./facts.js").Facts} Facts
 * @typedef {(part: { loaded: number, total: number }) => void} Tell
 */

const ROOT = new URL("../", import.meta.url);
/** @type {Promise<Answers> | null} */
let answers = null;
let token = ""; // of the server
/** @type {Map<number, AbortController>} */
const asked = new Map(); // questions that are being answered
const channel = new MessageChannel();
/** @type {(() => void)[]} */
const resting = [];
channel.port1.onmessage = () => resting.shift()?.();

/** Let messages in: sums in WASM leave no gap of their own. */
function breathe() {
  return new Promise((resolve) => {
    resting.push(() => resolve(undefined));
    channel.port2.postMessage(null);
  });
}

/**
 * @param {string} name of a file, from the root of the folder
 * @param {(bytes: number) => void} onBytes told of each part
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function bytesOf(name, onBytes) {
  const answer = await fetch(new URL(name, ROOT));
  if (!answer.ok || answer.body === null) throw new Error(`${name}: ${answer.status}`);
  const reader = answer.body.getReader();
  const parts = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    onBytes(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/**
 * @param {Tell} tell
 * @returns {Promise<Answers>}
 */
async function load(tell) {
  const server = new Server(ROOT, token, (delay) => postMessage({ delay }));
  const facts = /** @type {Facts} */ (await server.json("model/page.json"));
  return facts.server ? loadFrom(server, facts) : loadHere(/** @type {any} */ (facts), tell);
}

/**
 * @param {Server} server that computes
 * @param {Facts} facts
 * @returns {Promise<Answers>}
 */
async function loadFrom(server, facts) {
  const pieces = /** @type {string[]} */ (await server.json("model/tokens.json"));
  const isTokens = facts.kind === "tokens" || facts.kind === "images";
  const texts = isTokens ? new Texts(facts, pieces, null, new Set(), false) : new ServerTexts(server, pieces);
  const codebook = facts.codebook && codebookOf(facts.codebook, await server.bytes("model/codebook.bin"));
  return new Answers(facts, new ServerModel(server, facts, pieces), texts, codebook);
}

/**
 * @param {import("./facts.js").CodebookFacts} facts
 * @param {ArrayBuffer} centers
 */
function codebookOf(facts, centers) {
  const view = new DataView(centers);
  const values = Float32Array.from({ length: centers.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
  return new Codebook(facts, values);
}

/**
 * @param {Facts & import("./facts.js").GraphFacts} facts
 * @param {Tell} tell
 * @returns {Promise<Answers>}
 */
async function loadHere(facts, tell) {
  if (typeof WebAssembly !== "object") throw new RowProblem("noWasm");
  const total = Object.values(facts.files).reduce((sum, size) => sum + size, 0);
  let loaded = 0;
  const read = (/** @type {string} */ name) =>
    bytesOf(name, (count) => tell({ loaded: (loaded += count), total }));
  const has = (/** @type {string} */ name) => name in facts.files;
  const json = async (/** @type {string} */ name) => JSON.parse(new TextDecoder().decode(await read(name)));

  const ort = await import(new URL("runtime/ort.js", ROOT).href);
  ort.env.wasm.numThreads = 1; // several would need headers that few file servers send
  ort.env.wasm.wasmPaths = { mjs: new URL("runtime/ort-wasm.js", ROOT).href };
  ort.env.wasm.wasmBinary = (await read("runtime/ort-wasm.wasm")).buffer;
  const session = async (/** @type {string} */ name) =>
    has(name) ? ort.InferenceSession.create(await read(name), { executionProviders: ["wasm"] }) : null;

  const vocabulary = /** @type {Record<string, number>} */ (await json("model/vocab.json"));
  const tokens = Object.entries(vocabulary).sort((a, b) => a[1] - b[1]).map(([name]) => name);
  let tokenizer = null;
  let special = new Set();
  let isWordPiece = false;
  if (has("runtime/tokenizers.js")) {
    const { Tokenizer } = await import(new URL("runtime/tokenizers.js", ROOT).href);
    const content = await json("model/tokenizer.json");
    tokenizer = new Tokenizer(withoutSpecial(content), { clean_up_tokenization_spaces: false });
    special = new Set(content.added_tokens.filter((/** @type {any} */ each) => each.special).map((/** @type {any} */ each) => each.id));
    isWordPiece = content.decoder?.type === "WordPiece";
  }
  const codebook = facts.codebook && codebookOf(facts.codebook, (await read("model/codebook.bin")).buffer);
  const model = new Model(ort, facts, await session("model/classify.onnx"), await session("model/decode.onnx"));
  const texts = new Texts(facts, tokens, tokenizer, special, isWordPiece);
  return new Answers(facts, model, texts, codebook);
}

/** @param {MessageEvent} event */
self.onmessage = async ({ data: { id, method, question } }) => {
  if (method === "forget") {
    asked.get(id)?.abort();
    return;
  }
  const controller = new AbortController();
  const { signal } = controller;
  asked.set(id, controller);
  const tell = (/** @type {any} */ part) => postMessage({ id, part });
  const stopped = async () => {
    await breathe();
    return signal.aborted;
  };
  try {
    if (method === "load" && (question.token ?? "") !== token) {
      token = question.token ?? "";
      answers = null;
    }
    answers ??= load(tell).catch((error) => {
      answers = null;
      throw error;
    });
    const ready = /** @type {any} */ (await answers);
    const answer = method === "load" ? ready.facts : await ready[method](question, { tell, stopped, signal });
    postMessage({ id, answer });
  } catch (error) {
    const problem = error instanceof RowProblem ? { reason: error.reason, values: error.values } : null;
    postMessage({ id, error: String(error), problem, wrongToken: error instanceof WrongToken });
  } finally {
    asked.delete(id);
  }
};
