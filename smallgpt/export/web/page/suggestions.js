/** Known tokens offered while one is typed; the pattern of a list box under a text area. */

import { element, newId } from "./dom.js";
import { Forgotten } from "./engine.js";
import { say } from "./words.js";

export class Suggestions {
  #active = -1;
  /** @type {string[]} */
  #tokens = [];
  #number = 0; // of the last look for tokens
  #isLooking = false;
  /** @type {string[]} */
  #early = []; // keys pressed since then, meant for what it finds

  /**
   * @param {HTMLTextAreaElement} input
   * @param {(start: string) => Promise<string[]>} find
   * @param {() => void} onTyped called when a token was taken
   */
  constructor(input, find, onTyped) {
    this.input = input;
    this.find = find;
    this.onTyped = onTyped;
    this.list = element("ul", { class: "suggestions", role: "listbox", id: newId(), "aria-label": say("suggestions"), hidden: true });
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-controls", this.list.id);
    input.addEventListener("input", () => void this.#offer());
    input.addEventListener("keydown", (event) => this.#key(event));
    input.addEventListener("blur", () => this.#close());
  }

  /** The start of the token that ends at the caret. */
  #start() {
    const { value, selectionStart, selectionEnd } = this.input;
    if (selectionStart !== selectionEnd || /\S/.test(value[selectionEnd] ?? "")) return "";
    return /\S*$/.exec(value.slice(0, selectionStart))?.[0] ?? "";
  }

  async #offer() {
    const start = this.#start();
    if (!start || start.length > 100) {
      this.#close();
      return;
    }
    const number = ++this.#number;
    this.#isLooking = true;
    this.#early = [];
    this.#active = -1; // of a list for another text
    this.#mark();
    /** @type {string[]} */
    let tokens = [];
    try {
      tokens = await this.find(start);
    } catch (error) {
      if (!(error instanceof Forgotten)) throw error;
    } finally {
      if (number === this.#number) this.#found(tokens);
    }
  }

  /** @param {string[]} tokens */
  #found(tokens) {
    this.#isLooking = false;
    this.#show(tokens);
    const keys = this.#early;
    this.#early = [];
    for (const key of keys) this.#press(key);
  }

  #close() {
    this.#number++; // what is still looked for comes too late
    this.#isLooking = false;
    this.#early = [];
    this.#show([]);
  }

  /** @param {string[]} tokens */
  #show(tokens) {
    this.#tokens = tokens;
    this.#active = -1;
    this.list.hidden = tokens.length === 0;
    this.list.replaceChildren(
      ...tokens.map((token, index) =>
        element("li", {
          role: "option", id: `${this.list.id}-${index}`, "aria-selected": "false",
          // Before the text area loses the focus.
          mousedown: (/** @type {MouseEvent} */ event) => {
            event.preventDefault();
            this.#take(token);
          },
        }, token)),
    );
    this.#mark();
  }

  #mark() {
    [...this.list.children].forEach((option, index) =>
      option.setAttribute("aria-selected", String(index === this.#active)));
    const active = this.list.children[this.#active];
    if (active) {
      this.input.setAttribute("aria-activedescendant", active.id);
      active.scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.isComposing) return;
    const isOpen = this.#isLooking || this.#tokens.length > 0;
    const isChosen = this.#isLooking ? this.#early.length > 0 : this.#active >= 0;
    if (event.key === "Escape" && isOpen) this.#close();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp" || (event.key === "Enter" && isChosen)) {
      if (!isOpen) return;
      if (this.#isLooking) this.#early.push(event.key);
      else this.#press(event.key);
    } else return;
    event.preventDefault();
  }

  /** @param {string} key */
  #press(key) {
    const count = this.#tokens.length;
    if (!count) return;
    if (key === "ArrowDown") this.#active = (this.#active + 1) % count;
    else if (key === "ArrowUp") this.#active = this.#active <= 0 ? count - 1 : this.#active - 1;
    else this.#take(this.#tokens[this.#active]);
    this.#mark();
  }

  /** @param {string} token */
  #take(token) {
    const { value, selectionStart } = this.input;
    const before = value.slice(0, selectionStart).replace(/\S*$/, "");
    const after = value.slice(selectionStart).replace(/^\s+/, "");
    this.input.value = `${before}${token} ${after}`;
    const caret = before.length + token.length + 1;
    this.input.setSelectionRange(caret, caret);
    this.#close();
    this.onTyped();
  }
}
