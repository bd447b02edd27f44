/**
 * Drawings and pictures as a codebook takes them: size, colour and range of pixel values.
 *
 * A picture from a file becomes what `smallgpt/inputs/like_codebook.py` makes of it, Pillow's
 * resampling included. A drawing has far more pixels than the images of the model and is reduced by
 * area averages, as placed or centred.
 *
 * @typedef {import("./facts.js").CodebookFacts} CodebookFacts
 * @typedef {import("./facts.js").Box} Box
 *
 * @typedef {object} Picture
 * @property {Uint8ClampedArray} data red, green, blue, alpha of each pixel
 * @property {number} width
 * @property {number} height
 *
 * @typedef {object} Frame a part of a picture, in its pixels; it may reach beyond
 * @property {number} left
 * @property {number} top
 * @property {number} width
 * @property {number} height
 */

const LANCZOS = 3; // lobes
const FIXED = 2 ** 22; // Pillow computes with weights of so many steps
const MOST_ENLARGED = 2.5; // a dot stays a dot
const LEAST_DIFFERENCE = 24; // of a pixel from the paper, of 255

/**
 * Grey with the weights of ITU-R 601-2, rounded as Pillow does.
 *
 * @param {number} red
 * @param {number} green
 * @param {number} blue
 */
export function grey(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

/**
 * The channels of a picture in the colour of the codebook, transparent parts over white.
 *
 * @param {Picture} picture
 * @param {number} channels 1 or 3
 * @returns {Uint8Array[]}
 */
export function channelsOf(picture, channels) {
  const count = picture.width * picture.height;
  const planes = Array.from({ length: channels }, () => new Uint8Array(count));
  const { data } = picture;
  for (let i = 0; i < count; i++) {
    const alpha = data[4 * i + 3];
    const over = (/** @type {number} */ value) =>
      alpha === 255 ? value : Math.round((value * alpha + 255 * (255 - alpha)) / 255);
    const [red, green, blue] = [over(data[4 * i]), over(data[4 * i + 1]), over(data[4 * i + 2])];
    if (channels === 1) planes[0][i] = grey(red, green, blue);
    else [planes[0][i], planes[1][i], planes[2][i]] = [red, green, blue];
  }
  return planes;
}

/** @param {number} x */
function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/**
 * Weights of the pixels that each new pixel is made of.
 *
 * @param {number} before
 * @param {number} after
 * @returns {{ first: number, weights: number[] }[]}
 */
function lanczosWeights(before, after) {
  const scale = before / after;
  const stretch = Math.max(scale, 1);
  const support = LANCZOS * stretch;
  return Array.from({ length: after }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(before, Math.trunc(center + support + 0.5));
    const raw = [];
    let sum = 0;
    for (let x = first; x < end; x++) {
      const t = (x - center + 0.5) / stretch;
      const weight = Math.abs(t) < LANCZOS ? sinc(t) * sinc(t / LANCZOS) : 0;
      raw.push(weight);
      sum += weight;
    }
    const weights = raw.map((weight) => {
      const fixed = (weight / sum) * FIXED;
      return Math.trunc(fixed + (fixed < 0 ? -0.5 : 0.5));
    });
    return { first, weights };
  });
}

/**
 * One channel resized as Pillow does with Image.Resampling.LANCZOS: first its rows, then its columns.
 *
 * @param {Uint8Array} plane
 * @param {number} width
 * @param {number} height
 * @param {number} newWidth
 * @param {number} newHeight
 * @returns {Uint8Array}
 */
export function resized(plane, width, height, newWidth, newHeight) {
  /** @type {(read: (along: number) => number, pixel: { first: number, weights: number[] }) => number} */
  const mix = (read, { first, weights }) => {
    let sum = FIXED / 2;
    for (let i = 0; i < weights.length; i++) sum += weights[i] * read(first + i);
    return Math.min(255, Math.max(0, Math.floor(sum / FIXED)));
  };
  let wide = plane;
  if (newWidth !== width) {
    const weights = lanczosWeights(width, newWidth);
    wide = new Uint8Array(newWidth * height);
    for (let y = 0; y < height; y++) {
      const read = (/** @type {number} */ x) => plane[y * width + x];
      for (let x = 0; x < newWidth; x++) wide[y * newWidth + x] = mix(read, weights[x]);
    }
  }
  if (newHeight === height) return wide;
  const weights = lanczosWeights(height, newHeight);
  const result = new Uint8Array(newWidth * newHeight);
  for (let x = 0; x < newWidth; x++) {
    const read = (/** @type {number} */ y) => wide[y * newWidth + x];
    for (let y = 0; y < newHeight; y++) result[y * newWidth + x] = mix(read, weights[y]);
  }
  return result;
}

/**
 * A picture from a file as an image of the codebook.
 *
 * @param {Picture} picture
 * @param {CodebookFacts} codebook
 * @returns {Float32Array} rows, columns, channels
 */
export function imageOfPicture(picture, codebook) {
  const { width, height, channels } = codebook;
  const planes = channelsOf(picture, channels).map((plane) =>
    resized(plane, picture.width, picture.height, width, height),
  );
  return inRange(interleaved(planes), codebook);
}

/**
 * A part of a drawing as an image of the codebook, by area averages.
 *
 * @param {Picture} drawing
 * @param {Frame} frame
 * @param {number[]} paper colour of what lies beyond the drawing
 * @param {CodebookFacts} codebook
 * @returns {Float32Array} rows, columns, channels
 */
export function imageOfDrawing(drawing, frame, paper, codebook) {
  const { width, height, channels } = codebook;
  const beyond = channels === 1 ? [grey(paper[0], paper[1], paper[2])] : paper;
  const planes = channelsOf(drawing, channels).map((plane, c) => {
    const reduced = new Uint8Array(width * height);
    const lines = shares(frame.top, frame.height, height, drawing.height);
    const places = shares(frame.left, frame.width, width, drawing.width);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        let sum = 0;
        let inside = 0;
        for (const [line, ofLine] of lines[y]) {
          for (const [place, ofPlace] of places[x]) {
            sum += ofLine * ofPlace * plane[line * drawing.width + place];
            inside += ofLine * ofPlace;
          }
        }
        reduced[y * width + x] = Math.round(sum + (1 - inside) * beyond[c]);
      }
    }
    return reduced;
  });
  return inRange(interleaved(planes), codebook);
}

/**
 * Which pixels lie under each of `count` equal parts of a stretch, and what share of the part.
 *
 * @param {number} start
 * @param {number} length
 * @param {number} count
 * @param {number} size pixels there are
 * @returns {[number, number][][]}
 */
function shares(start, length, count, size) {
  const part = length / count;
  return Array.from({ length: count }, (_, index) => {
    const from = start + index * part;
    const to = from + part;
    /** @type {[number, number][]} */
    const found = [];
    for (let x = Math.max(0, Math.floor(from)); x < Math.min(size, Math.ceil(to)); x++) {
      found.push([x, (Math.min(to, x + 1) - Math.max(from, x)) / part]);
    }
    return found;
  });
}

/**
 * The part of a drawing to read so that what is drawn stands as in the training images: its longer
 * side fills as much of the frame, its centre of mass lies where theirs does.
 *
 * @param {Picture} drawing
 * @param {number[]} paper
 * @param {Box | null} box null: the whole drawing, as placed
 * @returns {Frame | null} null for an empty drawing
 */
export function frameOf(drawing, paper, box) {
  const { data, width, height } = drawing;
  let [left, right, top, bottom] = [width, -1, height, -1];
  let [mass, sumX, sumY] = [0, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = 4 * (y * width + x);
      const unlike = Math.max(
        Math.abs(data[i] - paper[0]),
        Math.abs(data[i + 1] - paper[1]),
        Math.abs(data[i + 2] - paper[2]),
      );
      if (unlike < LEAST_DIFFERENCE) continue;
      [left, right, top, bottom] = [
        Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y),
      ];
      mass += unlike;
      sumX += unlike * (x + 0.5);
      sumY += unlike * (y + 0.5);
    }
  }
  if (mass === 0) return null;
  if (box === null) return { left: 0, top: 0, width, height };
  const filled = Math.max((right + 1 - left) / width, (bottom + 1 - top) / height);
  const zoom = Math.min(box.fill / filled, MOST_ENLARGED);
  const [wide, high] = [width / zoom, height / zoom];
  /** @type {(wanted: number, least: number, most: number) => number} */
  const within = (wanted, least, most) => (least > most ? (least + most) / 2 : Math.min(most, Math.max(least, wanted)));
  return {
    left: within(sumX / mass - box.x * wide, right + 1 - wide, left),
    top: within(sumY / mass - box.y * high, bottom + 1 - high, top),
    width: wide,
    height: high,
  };
}

/**
 * @param {Uint8Array[]} planes
 * @returns {Uint8Array}
 */
function interleaved(planes) {
  if (planes.length === 1) return planes[0];
  const result = new Uint8Array(planes.length * planes[0].length);
  for (let i = 0; i < result.length; i++) {
    result[i] = planes[i % planes.length][Math.floor(i / planes.length)];
  }
  return result;
}

/**
 * Pixels from 0, black, to 255, white, in the range of the codebook; computed in float32.
 *
 * @param {Uint8Array} pixels
 * @param {CodebookFacts} codebook
 * @returns {Float32Array}
 */
export function inRange(pixels, codebook) {
  const { low, white } = codebook;
  const image = Float32Array.from(pixels);
  if (low === 0 && white === 255) return image;
  const scale = Math.fround((white - low) / 255);
  const whole = low === 0 && Number.isInteger(white) && white >= 2 && white <= 255;
  for (let i = 0; i < image.length; i++) {
    image[i] = Math.fround(Math.fround(pixels[i] * scale) + Math.fround(low));
    if (whole) image[i] = Math.min(255, Math.max(0, roundHalfEven(image[i])));
  }
  return image;
}

/** @param {number} x */
function roundHalfEven(x) {
  const below = Math.floor(x);
  const rest = x - below;
  if (rest !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}
