/** Elements, bars of shares, sliders, small pictures, announcements. */

import { percent, say } from "./words.js";

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [attributes] a function is a listener, a boolean sets or leaves out
 * @param {...(Node | string | null)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

let numbers = 0;

/** An id that no other element has. */
export function newId() {
  return `e${++numbers}`;
}

/**
 * A card: a part of the page with its heading.
 *
 * @param {string} heading
 * @param {...(Node | string | null)} children
 */
export function card(heading, ...children) {
  const id = newId();
  return element("section", { class: "card", "aria-labelledby": id },
    element("h2", { id }, heading), ...children);
}

/**
 * A slider with its name and value.
 *
 * @param {{ name: string, hint?: string, min: number, max: number, step: number, value: number,
 *   shown: (value: number) => string, onInput: (value: number) => void }} wish
 */
export function slider({ name, hint, min, max, step, value, shown, onInput }) {
  const id = newId();
  const output = element("span", { class: "value", "aria-hidden": "true" }, shown(value));
  const input = element("input", {
    id, type: "range", min, max, step, value, "aria-valuetext": shown(value),
    input: () => {
      const words = shown(input.valueAsNumber);
      output.textContent = words;
      input.setAttribute("aria-valuetext", words);
      onInput(input.valueAsNumber);
    },
  });
  const hinted = hint ? element("small", { class: "quiet", id: `${id}h` }, hint) : null;
  if (hinted) input.setAttribute("aria-describedby", hinted.id);
  return element("div", { class: "slider" },
    element("label", { for: id }, name), output, input, hinted);
}

/**
 * @typedef {object} Item of a list of bars
 * @property {string} name
 * @property {number} share
 * @property {boolean} [strong]
 * @property {() => void} [choose] makes it a button
 * @property {string} [note] in place of a choice
 */

/**
 * A list of shares as bars. Its elements stay, so that bars move to their new lengths.
 */
export class Bars {
  constructor() {
    this.list = element("ul", { class: "bars" });
  }

  /** @param {Item[]} items */
  show(items) {
    while (this.list.children.length > items.length) this.list.lastChild?.remove();
    items.forEach((item, index) => {
      const row = this.list.children[index] ?? this.list.appendChild(element("li"));
      const tag = item.choose ? "button" : "div";
      let inner = /** @type {HTMLElement | null} */ (row.firstElementChild);
      if (inner === null || inner.localName !== tag) {
        inner = element(tag, { class: "bar", ...(tag === "button" ? { type: "button" } : {}) },
          element("span", { class: "name" }),
          element("span", { class: "track", "aria-hidden": "true" }, element("span", { class: "fill" })),
          element("span", { class: "share" }));
        row.replaceChildren(inner);
      }
      const [name, track, share] = /** @type {any} */ (inner.children);
      name.textContent = item.note ? `${item.name} (${item.note})` : item.name;
      name.title = item.name;
      track.firstElementChild.style.setProperty("--share", String(item.share));
      share.textContent = percent(item.share);
      inner.classList.toggle("strong", item.strong === true);
      inner.onclick = item.choose ?? null;
    });
  }
}

const LABELS_IN_ORDER = 12; // so many keep their places, of more the likeliest are shown
const LABELS_SHOWN = 8;

/**
 * Labels with their shares, and a line for those that are left out.
 */
export class LabelBars {
  constructor() {
    this.bars = new Bars();
    this.rest = element("p", { class: "quiet", hidden: true });
    this.nothing = element("p", { class: "quiet" });
    this.box = element("div", {}, this.nothing, this.bars.list, this.rest);
  }

  /**
   * @param {string[]} labels
   * @param {ArrayLike<number> | null} shares null: none yet
   * @param {string} nothing what is said then
   */
  show(labels, shares, nothing) {
    this.nothing.textContent = nothing;
    this.nothing.hidden = shares !== null;
    this.bars.list.hidden = shares === null;
    this.rest.hidden = true;
    if (shares === null) return;
    const order = labels.map((_, k) => k).sort((a, b) => shares[b] - shares[a] || a - b);
    const inOrder = labels.length <= LABELS_IN_ORDER;
    const shown = inOrder ? labels.map((_, k) => k) : order.slice(0, LABELS_SHOWN);
    this.bars.show(shown.map((k) => ({ name: labels[k], share: shares[k], strong: k === order[0] })));
    if (inOrder) return;
    const left = order.slice(LABELS_SHOWN).reduce((sum, k) => sum + shares[k], 0);
    this.rest.textContent = say("others", { count: labels.length - LABELS_SHOWN, share: percent(left) });
    this.rest.hidden = false;
  }
}

/**
 * A small picture of pixels.
 *
 * @param {number} width
 * @param {number} height
 */
export function picture(width, height) {
  return element("canvas", { class: "pixels", role: "img", width, height });
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Uint8ClampedArray<ArrayBuffer>} rgba
 */
export function paint(canvas, rgba) {
  canvas.getContext("2d")?.putImageData(new ImageData(rgba, canvas.width, canvas.height), 0, 0);
}

const QUIET = 900; // milliseconds without a change before a screen reader is told

/** Tells screen readers what has changed, once it has settled. */
export class Announcer {
  #timer = 0;
  constructor() {
    this.box = element("div", { class: "unseen", "aria-live": "polite" });
  }

  /** @param {string} text */
  tell(text) {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => {
      if (this.box.textContent !== text) this.box.textContent = text;
    }, QUIET);
  }
}
