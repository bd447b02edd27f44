/** The page: it loads the model, shows what fits it, and speaks two languages. */

import { element } from "./dom.js";
import { Engine } from "./engine.js";
import { ImageView } from "./image_view.js";
import { RowView } from "./row_view.js";
import { LANGUAGES, language, nameOf, say, setLanguage, usualLanguage } from "./words.js";

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
let progress = { loaded: 0, total: 0 };

function showProblem() {
  place("problem").textContent = problem?.() ?? "";
  place("problem").hidden = problem === null;
}

/** @param {unknown} error */
function fail(error) {
  const reason = error instanceof Error ? error.message : String(error);
  problem = () => say("failed", { error: reason });
  showProblem();
}

function showProgress() {
  const { loaded, total } = progress;
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
  place("subtitle").textContent = say("subtitle", {
    parameters: facts.parameters, what: say(`what${kind}`, size),
  });
}

function showAll() {
  showLanguages();
  showTitle();
  showProgress();
  showProblem();
  place("footer").textContent = say("footer");
  if (view !== null) place("view").replaceChildren(...view.build());
}

async function start() {
  setLanguage(usualLanguage(), false);
  showAll();
  if (document.documentElement.dataset.lacking) return;
  place("loading").hidden = false;
  try {
    const engine = new Engine();
    facts = /** @type {Facts} */ (
      await engine.ask("load", {}, (part) => {
        progress = part;
        showProgress();
      })
    );
    view = facts.codebook === null ? new RowView(engine, facts, fail) : new ImageView(engine, facts, fail);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    problem = () => say("broken", { error: reason });
  }
  place("loading").hidden = true;
  showAll();
  document.documentElement.dataset.ready = String(view !== null);
}

void start();
