/**
 * The thread that computes, so that the page never waits: it loads the model, and answers the
 * questions of engine.js with the methods of `Answers`.
 */

import { Answers } from "./answers.js";
import { Codebook } from "./codebook.js";
import { Model } from "./model.js";
import { RowProblem } from "./rows.js";
import { Texts, withoutSpecial } from "./text.js";

const ROOT = new URL("../", import.meta.url);
/** @type {Promise<Answers> | null} */
let answers = null;
const unwanted = new Set(); // questions that nobody waits for any more
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
 * @param {(part: { loaded: number, total: number }) => void} tell
 * @returns {Promise<Answers>}
 */
async function load(tell) {
  const facts = /** @type {import("./facts.js").Facts} */ (
    await (await fetch(new URL("model/page.json", ROOT))).json()
  );
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
  const tokens = Object.entries(vocabulary).sort((a, b) => a[1] - b[1]).map(([token]) => token);
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
  let codebook = null;
  if (facts.codebook !== null) {
    const bytes = await read("model/codebook.bin");
    const view = new DataView(bytes.buffer);
    const centers = Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
    codebook = new Codebook(facts.codebook, centers);
  }
  const model = new Model(ort, facts, await session("model/classify.onnx"), await session("model/decode.onnx"));
  const texts = new Texts(facts, tokens, tokenizer, special, isWordPiece);
  return new Answers(facts, model, texts, codebook);
}

/** @param {MessageEvent} event */
self.onmessage = async ({ data: { id, method, question } }) => {
  if (method === "forget") {
    unwanted.add(id);
    return;
  }
  const tell = (/** @type {any} */ part) => postMessage({ id, part });
  const stopped = async () => {
    await breathe();
    return unwanted.has(id);
  };
  try {
    answers ??= load(tell);
    const ready = /** @type {any} */ (await answers);
    const answer = method === "load" ? ready.facts : await ready[method](question, { tell, stopped });
    postMessage({ id, answer });
  } catch (error) {
    const problem = error instanceof RowProblem ? { reason: error.reason, values: error.values } : null;
    postMessage({ id, error: String(error), problem });
  } finally {
    unwanted.delete(id);
  }
};
