/**
 * Rules of rows: their label tail, how they are cut, and what may follow in a row that is made up;
 * as `smallgpt/rows/label_tail.py`, `rows/row.py` and `decoding/row_rules.py` have them.
 *
 * @typedef {import("./facts.js").Facts} Facts
 * @typedef {(length: number, last: number) => (token: number) => boolean} Follows
 *   of a row of so many tokens, the last of which is given: whether a token may come next
 */

const TAIL_LENGTH = 3; // <CLS> <CLS_k> <EOS>

/** A row that cannot be read; `reason` names words of words.js. */
export class RowProblem extends Error {
  /**
   * @param {string} reason
   * @param {Record<string, string | number>} [values]
   */
  constructor(reason, values = {}) {
    super(reason);
    this.reason = reason;
    this.values = values;
  }
}

/**
 * What of a row the label is asked for: its body, without a label tail.
 *
 * @param {number[]} row
 * @param {Facts} facts
 * @returns {number[]}
 */
export function bodyOf(row, facts) {
  const { cls, eos, pad } = facts.special;
  let end = row.length;
  while (end > 0 && row[end - 1] === pad) end--;
  if (row.slice(0, end).includes(pad)) throw new RowProblem("padInside");
  if (end > 0 && row[end - 1] === eos) end--;
  const labels = new Set(facts.label_ids);
  if (cls !== null) {
    if (end >= 2 && row[end - 2] === cls && labels.has(row[end - 1])) end -= 2;
    else if (end >= 1 && row[end - 1] === cls) end -= end >= 2 && row[end - 2] === cls ? 2 : 1;
  }
  const body = row.slice(0, end);
  if (body.some((id) => labels.has(id))) throw new RowProblem("labelInside");
  if (!body.length) throw new RowProblem("nothingBefore");
  return body;
}

/**
 * Check that a row can be made up after some tokens.
 *
 * @param {number[]} row
 * @param {Facts} facts
 */
export function checkStart(row, facts) {
  const { pad, cls, eos } = facts.special;
  if (row.includes(pad)) throw new RowProblem("padInside");
  const labels = new Set(cls === null ? [] : facts.label_ids);
  const [before, last] = [row.slice(0, -1), row[row.length - 1]];
  if (row.length > 3 && last === eos && labels.has(row[row.length - 2])) throw new RowProblem("whole");
  const mayEnd = facts.end !== "no label" && row.length > 2 && row[row.length - 2] === cls;
  const endsInLabel = mayEnd && labels.has(last);
  if ((endsInLabel ? before : row).some((id) => labels.has(id))) throw new RowProblem("labelInside");
  let missing = 1;
  if (facts.end === "label" && !endsInLabel) {
    missing = TAIL_LENGTH - (last === cls && before.length ? 1 : 0);
  }
  if (row.length + missing > facts.max_length) {
    throw new RowProblem("full", { count: row.length, most: facts.max_length });
  }
}

/**
 * The input of classify.onnx: a body cut at its start to the trained length, and what asks for the
 * label.
 *
 * @param {number[]} body
 * @param {Facts} facts
 * @returns {number[]}
 */
export function asked(body, facts) {
  const { longest_body, kept_first, append } = facts.row;
  const surplus = Math.max(0, body.length - longest_body);
  const kept = kept_first.includes(body[0]) ? 1 : 0;
  return [...body.slice(0, kept), ...body.slice(kept + surplus), ...append];
}

/**
 * The rules of made-up rows: of tokens as rows of training were, of texts any token but two.
 *
 * @param {Facts} facts
 * @returns {Follows}
 */
export function followsIn(facts) {
  const { pad, unk, cls, eos } = facts.special;
  if (facts.kind === "texts" || facts.kind === "instructions") {
    return () => (token) => token !== pad && token !== unk;
  }
  const labels = cls === null ? new Set() : new Set(facts.label_ids);
  const kindOf = (/** @type {number} */ token) => {
    if (token === pad || token === unk) return "never";
    if (token === cls) return "cls";
    if (token === eos) return "eos";
    return labels.has(token) ? "label" : "body";
  };
  return (length, last) => {
    const phase = labels.has(last) ? "label" : last === cls ? "cls" : "body";
    const kinds = allowed(facts.max_length - length, phase, facts.end);
    // A <CLS> that stands first ends no body.
    if (length === 1 && phase === "cls") kinds.delete("label");
    return (token) => kinds.has(kindOf(token));
  };
}

/**
 * @param {number} left how many more tokens fit
 * @param {"body" | "cls" | "label"} phase
 * @param {"label" | "no label" | "either"} end
 * @returns {Set<string>} kinds of tokens that may come
 */
function allowed(left, phase, end) {
  if (end === "no label") {
    return new Set(phase === "body" ? ["body", "cls", "eos"] : ["body"]);
  }
  if (phase === "label") return new Set(["eos"]);
  if (end === "label") {
    if (left > TAIL_LENGTH) return new Set(phase === "cls" ? ["body", "cls", "label"] : ["body", "cls"]);
    if (phase === "body") return new Set(["cls"]);
    return new Set(left === TAIL_LENGTH ? ["cls", "label"] : ["label"]);
  }
  const kinds = new Set(["body"]);
  if (left >= TAIL_LENGTH) kinds.add("cls");
  if (phase === "body") kinds.add("eos");
  else if (left >= TAIL_LENGTH - 1) kinds.add("label");
  return kinds;
}

/**
 * Tokens that end a made-up row.
 *
 * @param {Facts} facts
 * @returns {Set<number | null>}
 */
export function stopsOf(facts) {
  const { cls, eos } = facts.special;
  // A label tail is no text.
  return new Set(facts.kind === "texts" || facts.kind === "instructions" ? [eos, cls] : [eos]);
}
