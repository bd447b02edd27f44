/** The form that asks for the token of the server; a tab keeps it until it is closed. */

import { element, newId } from "./dom.js";
import { say } from "./words.js";

const KEY = "smallgpt-token";

/** @returns {string} the token of this tab, "" without one */
export function keptToken() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // a browser may keep nothing
  }
}

/** @param {string} token */
export function keepToken(token) {
  try {
    sessionStorage.setItem(KEY, token);
  } catch {
    // As above.
  }
}

/**
 * @param {boolean} wasWrong whether one was given before
 * @param {(token: string) => void} onGiven
 */
export function tokenForm(wasWrong, onGiven) {
  const id = newId();
  const input = element("input", {
    id, type: "password", autocomplete: "off", spellcheck: "false", required: true,
    "aria-describedby": `${id}h`, "aria-invalid": String(wasWrong),
  });
  return element("form", {
    class: "card token",
    submit: (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      onGiven(input.value.trim());
    },
  },
  element("label", { for: id }, say("token")),
  element("div", { class: "tools" }, input,
    element("button", { type: "submit", class: "button main" }, say("tokenGive"))),
  element("p", { class: "quiet", id: `${id}h` }, say("tokenHint")),
  wasWrong ? element("p", { class: "warning", role: "alert" }, say("tokenWrong")) : null);
}
