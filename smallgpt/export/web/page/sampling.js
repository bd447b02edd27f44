/**
 * Shares, surprise, and the choice of the next token, as `smallgpt/decoding/sampling.py` has them.
 *
 * @typedef {object} Sampling
 * @property {number} temperature divides the logits; 0 takes the likeliest token
 * @property {number} topK keeps the k largest logits, and those equal to the k-th; 0 keeps all
 */

export const TOP_K = 50; // as the command line, and a server that is asked for nothing else
export const NEXT_SHOWN = 10;

/**
 * @param {ArrayLike<number>} logits
 * @returns {Float64Array} their log-softmax
 */
export function logSoftmax(logits) {
  let top = -Infinity;
  for (let i = 0; i < logits.length; i++) top = Math.max(top, logits[i]);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - top);
  const shift = top + Math.log(sum);
  const result = new Float64Array(logits.length);
  for (let i = 0; i < logits.length; i++) result[i] = logits[i] - shift;
  return result;
}

/**
 * @param {ArrayLike<number>} values
 * @returns {number} the place of the largest value, the first of equal ones
 */
export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/**
 * @param {ArrayLike<number>} values
 * @param {number} count
 * @returns {number[]} places of the largest values, falling, equal ones in their order
 */
export function largest(values, count) {
  const places = Array.from({ length: values.length }, (_, place) => place);
  places.sort((a, b) => values[b] - values[a] || a - b);
  return places.slice(0, count);
}

/**
 * @param {ArrayLike<number>} logits
 * @returns {{ id: number, share: number }[]} the likeliest tokens and their probabilities, falling
 */
export function likeliest(logits) {
  const shares = logSoftmax(logits);
  return largest(shares, NEXT_SHOWN).map((id) => ({ id, share: Math.exp(shares[id]) }));
}

/**
 * @param {ArrayLike<number>} logits -Infinity for what may not come
 * @param {Sampling} sampling
 * @returns {Float64Array} the probabilities that the next token is drawn from
 */
export function probabilities(logits, sampling) {
  const result = new Float64Array(logits.length);
  if (sampling.temperature === 0) {
    result[argmax(logits)] = 1;
    return result;
  }
  let least = -Infinity;
  if (sampling.topK > 0 && sampling.topK < logits.length) {
    least = Float64Array.from(logits).sort()[logits.length - sampling.topK];
  }
  let top = -Infinity;
  for (let i = 0; i < logits.length; i++) top = Math.max(top, logits[i]);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    if (logits[i] >= least) result[i] = Math.exp((logits[i] - top) / sampling.temperature);
    sum += result[i];
  }
  for (let i = 0; i < result.length; i++) result[i] /= sum;
  return result;
}

/**
 * @param {ArrayLike<number>} logits -Infinity for what may not come
 * @param {Sampling} sampling
 * @param {number} uniform a random number from 0, below 1
 * @returns {number} the next token, by inverse transform sampling
 */
export function choose(logits, sampling, uniform) {
  if (sampling.temperature === 0) return argmax(logits);
  const shares = probabilities(logits, sampling);
  let sum = 0;
  let last = 0;
  for (let i = 0; i < shares.length; i++) {
    if (shares[i] === 0) continue;
    sum += shares[i];
    last = i;
    if (sum > uniform) return i;
  }
  return last; // the sum may fall short of 1 by rounding
}

/**
 * @param {ArrayLike<number>} logits of the token that follows
 * @param {number} token the one that did
 * @returns {number} its surprise in nats
 */
export function surprise(logits, token) {
  return -logSoftmax(logits)[token];
}
