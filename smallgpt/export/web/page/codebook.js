/**
 * Images to codes and back, as `smallgpt/tokens/codebook.py` does it, and how familiar an image is.
 *
 * @typedef {import("./facts.js").CodebookFacts} CodebookFacts
 */

// See `smallgpt/tokens/familiarity.py`.
const MOST_TIMES = 3;
const LEAST_LOSS = 0.1;

export class Codebook {
  /**
   * @param {CodebookFacts} facts
   * @param {Float32Array} centers a patch a code: row, column, channel
   */
  constructor(facts, centers) {
    this.facts = facts;
    this.centers = centers;
    this.values = facts.patch_size ** 2 * facts.channels; // of a patch
    this.size = centers.length / this.values;
    this.rows = Math.ceil(facts.height / facts.patch_size);
    this.columns = Math.ceil(facts.width / facts.patch_size);
    this.halfSquares = new Float64Array(this.size);
    for (let code = 0; code < this.size; code++) {
      let sum = 0;
      for (let d = 0; d < this.values; d++) sum += centers[code * this.values + d] ** 2;
      this.halfSquares[code] = sum / 2;
    }
  }

  /**
   * @param {ArrayLike<number>} image rows, columns, channels
   * @returns {number[]} the nearest code of every patch, the lower of two equally near
   */
  encode(image) {
    const patch = new Float64Array(this.values);
    /** @type {number[]} */
    const codes = [];
    for (let place = 0; place < this.rows * this.columns; place++) {
      this.#copyPatch(image, place, patch);
      let best = 0;
      let least = Infinity;
      for (let code = 0; code < this.size; code++) {
        let product = 0;
        const start = code * this.values;
        for (let d = 0; d < this.values; d++) product += patch[d] * this.centers[start + d];
        const distance = this.halfSquares[code] - product;
        if (distance < least) {
          least = distance;
          best = code;
        }
      }
      codes.push(best);
    }
    return codes;
  }

  /**
   * @param {ArrayLike<number>} image
   * @param {number} place of the patch
   * @param {Float64Array} patch beyond the image it repeats the last row and column
   */
  #copyPatch(image, place, patch) {
    const { patch_size, height, width, channels } = this.facts;
    const top = Math.floor(place / this.columns) * patch_size;
    const left = (place % this.columns) * patch_size;
    let d = 0;
    for (let y = top; y < top + patch_size; y++) {
      const row = Math.min(y, height - 1);
      for (let x = left; x < left + patch_size; x++) {
        const pixel = (row * width + Math.min(x, width - 1)) * channels;
        for (let c = 0; c < channels; c++) patch[d++] = image[pixel + c];
      }
    }
  }

  /**
   * @param {number[]} codes
   * @returns {Float32Array} the image; patches that are missing are the darkest one
   */
  decode(codes) {
    const { patch_size, height, width, channels } = this.facts;
    const image = new Float32Array(height * width * channels);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const place = Math.floor(y / patch_size) * this.columns + Math.floor(x / patch_size);
        const within = (y % patch_size) * patch_size + (x % patch_size);
        const from = (codes[place] ?? 0) * this.values + within * channels;
        for (let c = 0; c < channels; c++) {
          image[(y * width + x) * channels + c] = this.centers[from + c];
        }
      }
    }
    return image;
  }

  /**
   * @param {ArrayLike<number>} image
   * @returns {Uint8ClampedArray<ArrayBuffer>} red, green, blue, alpha of each pixel
   */
  rgba(image) {
    const { height, width, channels, low, high } = this.facts;
    const pixels = new Uint8ClampedArray(4 * height * width);
    for (let pixel = 0; pixel < height * width; pixel++) {
      for (let c = 0; c < 3; c++) {
        const value = image[pixel * channels + (channels === 3 ? c : 0)];
        pixels[4 * pixel + c] = (255 * (value - low)) / (high - low);
      }
      pixels[4 * pixel + 3] = 255;
    }
    return pixels;
  }

  /**
   * @param {ArrayLike<number>} image
   * @param {number[]} codes
   * @returns {boolean} whether the image is unlike the training images
   */
  unlike(image, codes) {
    const { familiarity, low, high } = this.facts;
    if (familiarity === null) return false;
    const again = this.decode(codes);
    let squares = 0;
    for (let i = 0; i < again.length; i++) squares += (image[i] - again[i]) ** 2;
    const error = Math.sqrt(squares / again.length) / (high - low);
    const surprise = this.#surprise(codes);
    return (
      error > Math.max(MOST_TIMES * familiarity.rmse, LEAST_LOSS) ||
      surprise < familiarity.least ||
      surprise > familiarity.most
    );
  }

  /** @param {number[]} codes */
  #surprise(codes) {
    const { familiarity } = this.facts;
    return codes.reduce((sum, code) => sum + (familiarity?.surprise[code] ?? 0), 0) / codes.length;
  }

  /**
   * @param {Float32Array} image that is unlike the training images
   * @param {number[]} codes
   * @returns {boolean} whether it is like them with dark and bright exchanged, by more usual codes
   *   and by its border: a large blob on the right ground is not inverted
   */
  looksInverted(image, codes) {
    const { low, white } = this.facts;
    const middle = (low + white) / 2;
    if (this.#border(image) > middle === this.#usualBrightness() > middle) return false;
    const other = image.map((value) => low + white - value);
    const otherCodes = this.encode(other);
    return !this.unlike(other, otherCodes) && this.#surprise(otherCodes) < this.#surprise(codes);
  }

  /**
   * @param {Float32Array} image
   * @returns {number} mean pixel value along the border
   */
  #border(image) {
    const { height, width, channels } = this.facts;
    let sum = 0;
    let count = 0;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (y > 0 && y < height - 1 && x > 0 && x < width - 1) continue;
        for (let c = 0; c < channels; c++) sum += image[(y * width + x) * channels + c];
        count += channels;
      }
    }
    return sum / count;
  }

  /** Mean pixel value of the training images, as their codes tell it. */
  #usualBrightness() {
    const { familiarity } = this.facts;
    let sum = 0;
    for (let i = 0; i < this.centers.length; i++) {
      const surprise = familiarity?.surprise[Math.floor(i / this.values)] ?? Infinity;
      sum += Math.exp(-surprise) * this.centers[i];
    }
    return sum / this.values;
  }
}
