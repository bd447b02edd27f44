import assert from "node:assert/strict";
import { createServer } from "node:http";
import test from "node:test";
import { Server, WrongToken, eventsOf, pauseBefore } from "../../../smallgpt/export/web/page/server.js";
import { ServerModel, nextOf, sharesOf, surprisesOf } from "../../../smallgpt/export/web/page/server_model.js";

/**
 * A server that answers each request by the next of these functions.
 *
 * @param {import("node:test").TestContext} context
 * @param {((request: import("node:http").IncomingMessage, response: import("node:http").ServerResponse, body: string) => void)[]} answers
 */
async function serverOf(context, answers) {
  const left = [...answers];
  const listening = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    left.shift()?.(request, response, body);
  });
  await new Promise((resolve) => listening.listen(0, "127.0.0.1", () => resolve(undefined)));
  context.after(() => {
    listening.closeAllConnections();
    listening.close();
  });
  const { port } = /** @type {import("node:net").AddressInfo} */ (listening.address());
  return new URL(`http://127.0.0.1:${port}/`);
}

/**
 * @param {number} status
 * @param {object} content
 * @param {Record<string, string>} [headers]
 */
const says = (status, content, headers = {}) =>
  (/** @type {any} */ _, /** @type {import("node:http").ServerResponse} */ response) =>
    response.writeHead(status, headers).end(JSON.stringify(content));

/** @param {object[]} events */
const streams = (...events) =>
  (/** @type {any} */ _, /** @type {import("node:http").ServerResponse} */ response) => {
    for (const event of events) response.write(`data: ${JSON.stringify(event)}\n\n`);
    response.end("data: [DONE]\n\n");
  };

/** @param {URL} root */
function patient(root) {
  /** @type {any} */
  const told = { delays: [], pauses: [] };
  const server = new Server(root, "secret", (delay) => told.delays.push(delay), async (seconds) => {
    told.pauses.push(seconds);
  });
  return { server, told };
}

const signal = new AbortController().signal;
/** @type {any} */
const asking = { signal };

test("a busy server is asked again when it says, and the page is told meanwhile", async (context) => {
  const busy = says(429, { error: { message: "busy" } }, { "retry-after": "3" });
  const { server, told } = patient(await serverOf(context, [busy, busy, says(200, { well: true })]));
  assert.deepEqual(await server.json("predict", {}), { well: true });
  assert.deepEqual(told.pauses, [3, 3]);
  assert.deepEqual(told.delays.map((/** @type {any} */ each) => each?.reason), ["busy", "busy", undefined]);
});

test("a server that is gone is asked again, a little later each time", async (context) => {
  const drop = (/** @type {any} */ request) => request.socket.destroy();
  const { server, told } = patient(await serverOf(context, [drop, drop, drop, says(200, {})]));
  await server.json("predict", {});
  assert.deepEqual(told.pauses, [1, 2, 4]);
  assert.equal(told.delays[0].reason, "gone");
  assert.deepEqual([pauseBefore(50, 0), pauseBefore(0, 600)], [10, 10]);
});

test("the token goes in a header alone, and a wrong one is told apart", async (context) => {
  /** @type {any[]} */
  const seen = [];
  const { server } = patient(await serverOf(context, [
    (request, response) => {
      seen.push(request.url, request.headers.authorization);
      response.writeHead(401).end();
    },
  ]));
  await assert.rejects(server.json("model/page.json"), WrongToken);
  assert.deepEqual(seen, ["/model/page.json", "Bearer secret"]);
});

test("what is not taken has the words of the server, other failures name what failed", async (context) => {
  const { server } = patient(await serverOf(context, [
    says(422, { error: { message: "too long" } }), says(500, { error: { message: "it broke" } }),
    (_, response) => response.writeHead(404).end("<html>"),
  ]));
  await assert.rejects(server.json("predict", {}), { reason: "refused", values: { message: "too long" } });
  await assert.rejects(server.json("predict", {}), /predict: it broke/);
  await assert.rejects(server.json("predict", {}), /predict: 404 Not Found/);
});

test("a question that is forgotten ends its request, also while it waits to be sent again", async (context) => {
  let gone = 0;
  const hangs = (/** @type {any} */ _, /** @type {import("node:http").ServerResponse} */ response) => {
    response.on("close", () => gone++);
    response.write("data: {\"choices\": []}\n\n");
  };
  const root = await serverOf(context, [hangs, says(503, {}), says(200, {})]);
  const server = new Server(root, "", () => undefined);
  const first = new AbortController();
  const take = () => first.abort();
  await assert.rejects(server.stream("v1/completions", {}, first.signal, () => ({ take, result: 0 })), { name: "AbortError" });
  const second = new AbortController();
  const answer = server.json("predict", {}, second.signal);
  setTimeout(() => second.abort(), 50);
  await assert.rejects(answer, { name: "AbortError" });
  assert.equal(gone, 1);
});

test("events may come in any parts", async () => {
  const whole = new TextEncoder().encode(": ping\n\ndata: {\"a\": \"好\"}\r\n\r\nevent: x\ndata: one\ndata: two\n\ndata: cut");
  for (const size of [1, 2, 7, whole.length]) {
    const parts = Array.from({ length: Math.ceil(whole.length / size) }, (_, i) => whole.slice(i * size, (i + 1) * size));
    const found = [];
    for await (const event of eventsOf(new Blob(parts).stream())) found.push(event);
    assert.deepEqual(found, ["{\"a\": \"好\"}", "one\ntwo"]);
  }
});

/** @type {any} */
const facts = {
  kind: "tokens", labels: ["cat", "dog"], label_ids: [], max_length: 8, end: "no label",
  special: { pad: 0, unk: null, cls: null, eos: 4 },
};

test("a stream that breaks off is asked for anew, from its beginning", async (context) => {
  const chunk = (/** @type {number} */ index, /** @type {number[]} */ ids) => ({ choices: [{ index, text: ids.join(" "), token_ids: ids }] });
  const breaks = (/** @type {any} */ _, /** @type {import("node:http").ServerResponse} */ response) =>
    response.write(`data: ${JSON.stringify(chunk(0, [9]))}\n\n`, () => response.destroy());
  /** @type {any[]} */
  const asked = [];
  const root = await serverOf(context, [breaks, (request, response, body) => {
    asked.push(request.url, JSON.parse(body));
    streams(chunk(1, [5]), chunk(0, [6, 7]), chunk(1, []), chunk(0, [8]))(request, response);
  }]);
  const { server, told } = patient(root);
  /** @type {any[]} */
  const steps = [];
  const made = await new ServerModel(server, facts, []).generate({
    prompt: [1, 2], count: 2, most: 3, follows: () => () => true, stops: new Set(),
    sampling: { temperature: 0.5, topK: 50 }, onStep: (rows) => steps.push(structuredClone(rows)),
  });
  assert.deepEqual(made, [[6, 7, 8], [5]]);
  assert.deepEqual(steps, [[[9], []], [[], [5]], [[6, 7], [5]], [[6, 7], [5]], [[6, 7, 8], [5]]]);
  assert.deepEqual(asked, ["/v1/completions", { prompt: [1, 2], n: 2, max_tokens: 3, temperature: 0.5, stream: true }]);
  assert.equal(told.delays[0].reason, "gone");
});

test("an error within a stream is told", async (context) => {
  const { server } = patient(await serverOf(context, [streams({ error: { message: "it stops" } })]));
  const begin = () => ({ take: () => undefined, result: 0 });
  await assert.rejects(server.stream("v1/completions", {}, signal, begin), /it stops/);
});

test("a row is read by its scores and its next tokens", async (context) => {
  /** @type {Record<string, any>} */
  const answers = {
    "/v1/score": { scores: [{ tokens: [{ id: 1, text: "a", nll: null }, { id: 2, text: "b", nll: 0.5 }, { id: 4, text: "<EOS>", nll: 1 }] }] },
    "/v1/completions": { choices: [{ logprobs: { top_logprobs: [{ b: Math.log(0.25), a: Math.log(0.75) }] } }] },
  };
  /** @type {Record<string, any>} */
  const asked = {};
  const answer = (/** @type {any} */ request, /** @type {any} */ response, /** @type {string} */ body) => {
    asked[request.url] = JSON.parse(body);
    response.end(JSON.stringify(answers[request.url]));
  };
  const { server } = patient(await serverOf(context, [answer, answer]));
  const model = new ServerModel(server, facts, ["<PAD>", "a", "b"]);
  const read = await model.read([1, 2], asking);
  assert.deepEqual(read.surprises, [null, 0.5]);
  assert.deepEqual(read.next.map(({ id }) => id), [1, 2]);
  assert.ok(Math.abs(read.next[0].share - 0.75) < 1e-12);
  assert.deepEqual(asked["/v1/score"], { rows: { input_ids: [1, 2] }, tokens: true });
  assert.deepEqual(asked["/v1/completions"], { prompt: [1, 2], max_tokens: 1, logprobs: 10, temperature: 0 });
});

test("nothing is asked about a row to which nothing can be added", async () => {
  const model = new ServerModel(new Server(new URL("http://127.0.0.1:9"), "", () => undefined), facts, []);
  const read = await model.read([0], asking); // <PAD>
  assert.deepEqual(read, { surprises: [null], next: [] });
});

test("shares stand in the order of the labels, those left out evenly", () => {
  assert.deepEqual(sharesOf({ probabilities: { dog: 0.75, cat: 0.25 } }, ["cat", "dog"]), [0.25, 0.75]);
  const labels = ["a", "b", "c", "__proto__"];
  const probabilities = JSON.parse('{"__proto__": 0.5, "b": 0.375}');
  assert.deepEqual(sharesOf({ probabilities }, labels), [0.0625, 0.375, 0.0625, 0.5]);
});

test("tokens of a completed tail are no surprise of the row", () => {
  const scored = [{ id: 3, nll: null }, { id: 1, nll: 2 }, { id: 4, nll: 3 }];
  assert.deepEqual(surprisesOf(scored, [3, 1]), [null, 2]);
  assert.deepEqual(surprisesOf(scored, [9, 1, 4, 5]), [null, 2, 3, null]);
});

test("likeliest tokens fall, and texts that no token has are left out", () => {
  const ids = new Map([["a", 1], ["b", 2], ["c", 3]]);
  const found = nextOf({ c: -2, "?": -1, a: 0, b: -2 }, ids);
  assert.deepEqual(found.map(({ id }) => id), [1, 2, 3]);
});
