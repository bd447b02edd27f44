/** The page: it loads the model or asks its server, shows what fits it, speaks two languages. */

import { element } from "./dom.js";
import { Engine } from "./engine.js";
import { ImageView } from "./image_view.js";
import { RowView } from "./row_view.js";
import { RowProblem } from "./rows.js";
import { WrongToken } from "./server.js";
import { keepToken, keptToken, tokenForm } from "./token_form.js";
import { LANGUAGES, language, nameOf, say, sayProblem, setLanguage, usualLanguage } from "./words.js";

/**
 * @typedef {import("./facts.js").Facts} Facts
 *
 * @typedef {object} View
 * @property {() => Node[]} build its elements, in the current language
 */

/** @param {string} id */
const place = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {Facts | null} */
let facts = null;
/** @type {View | null} */
let view = null;
/** @type {(() => string) | null} */
let problem = null;
/** @type {import("./server.js").Delay | null} */
let delay = null;
/** @type {"wanted" | "wrong" | null} */
let tokenState = null;
let isLoading = false;
/** The server's program says so in the page: "open", "token" (it wants one), or undefined. */
const { server } = document.documentElement.dataset;
const engine = new Engine((told) => {
  delay = told;
  showProblem();
});
let progress = { loaded: 0, total: 0 };

function showProblem() {
  const words = delay ? say(delay.reason) : (problem?.() ?? "");
  place("problem").textContent = words;
  place("problem").hidden = !words;
}

/**
 * @param {unknown} error
 * @param {"failed" | "broken" | "brokenServer"} word
 */
function setProblem(error, word) {
  if (error instanceof WrongToken) {
    if (tokenState !== null) return; // it is being typed
    tokenState = keptToken() ? "wrong" : "wanted";
    showTokenForm();
    return;
  }
  const reason = error instanceof Error ? error.message : String(error);
  problem = () => (error instanceof RowProblem ? sayProblem(error) : say(word, { error: reason }));
  showProblem();
}

/** @param {unknown} error */
function fail(error) {
  setProblem(error, "failed");
}

function showTokenForm() {
  if (tokenState === null) {
    place("token").replaceChildren();
    return;
  }
  const form = tokenForm(tokenState === "wrong", (token) => {
    keepToken(token);
    tokenState = null;
    showTokenForm();
    void load();
  });
  place("token").replaceChildren(form);
  form.querySelector("input")?.focus();
}

function showProgress() {
  place("loading").hidden = !isLoading;
  const { loaded, total } = progress;
  if (server) {
    place("loading-words").textContent = say("loadingServer");
    return;
  }
  const megabytes = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(1);
  place("loading-words").textContent = say("loading", {
    loaded: megabytes(loaded), total: megabytes(total),
  });
  const bar = /** @type {HTMLProgressElement} */ (place("progress"));
  if (total) bar.value = loaded / total;
}

function showLanguages() {
  const box = place("languages");
  box.setAttribute("aria-label", say("languages"));
  box.replaceChildren(
    ...LANGUAGES.map((each) =>
      element("button", {
        type: "button",
        lang: each,
        "aria-pressed": String(each === language()),
        click: () => {
          setLanguage(each, true);
          showAll();
          /** @type {HTMLElement | null} */ (box.querySelector(`[lang=${each}]`))?.focus();
        },
      }, nameOf(each)),
    ),
  );
}

function showTitle() {
  if (facts === null) return;
  const kind = /** @type {"Images" | "Tokens" | "Texts" | "Instructions"} */ (
    facts.kind[0].toUpperCase() + facts.kind.slice(1)
  );
  place("title").textContent = document.title = say(`title${kind}`);
  const size = { width: facts.codebook?.width ?? 0, height: facts.codebook?.height ?? 0 };
  const what = say(`what${kind}`, size);
  const { parameters } = facts;
  const model = parameters === null ? say("trained", { what }) : say("trainedSized", { parameters, what });
  place("subtitle").textContent = `${model}${say(facts.server ? "runsThere" : "runsHere")}`;
}

function showAll() {
  showLanguages();
  showTitle();
  showProgress();
  showProblem();
  showTokenForm();
  const here = facts?.kind === "images" ? "footerImages" : "footerRows";
  place("footer").textContent = say(server ? "footerServer" : here);
  if (view !== null) place("view").replaceChildren(...view.build());
}

async function load() {
  isLoading = true;
  problem = null;
  showProblem();
  showProgress();
  try {
    facts = /** @type {Facts} */ (
      await engine.ask("load", { token: keptToken() }, (part) => {
        progress = part;
        showProgress();
      })
    );
    // What was drawn or written stays where a token was wrong later on.
    view ??= facts.codebook === null ? new RowView(engine, facts, fail) : new ImageView(engine, facts, fail);
  } catch (error) {
    setProblem(error, server ? "brokenServer" : "broken");
  }
  isLoading = false;
  showAll();
  document.documentElement.dataset.ready = String(view !== null);
}

setLanguage(usualLanguage(), false);
if (!document.documentElement.dataset.lacking) {
  const canLoad = server !== "token" || keptToken() !== "";
  if (!canLoad) tokenState = "wanted";
  showAll();
  if (canLoad) void load();
}
