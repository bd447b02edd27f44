import assert from "node:assert/strict";
import test from "node:test";
import { frameOf, imageOfDrawing, imageOfPicture, inRange, resized } from "../../../smallgpt/export/web/page/pixels.js";
import { cases } from "./cases.js";

const GREY = {
  patch_size: 1, height: 28, width: 28, channels: 1, low: 0, high: 255, white: 255,
  familiarity: null, code_ids: [],
};

/**
 * A drawing of 280 x 280 pixels, black but for a white rectangle.
 *
 * @param {number} left
 * @param {number} top
 * @param {number} right
 * @param {number} bottom
 */
function rectangle(left, top, right, bottom) {
  const data = new Uint8ClampedArray(4 * 280 * 280).fill(0);
  for (let y = 0; y < 280; y++) {
    for (let x = 0; x < 280; x++) {
      const isWhite = x >= left && x < right && y >= top && y < bottom;
      data.fill(isWhite ? 255 : 0, 4 * (y * 280 + x), 4 * (y * 280 + x) + 3);
      data[4 * (y * 280 + x) + 3] = 255;
    }
  }
  return { data, width: 280, height: 280 };
}

/** @param {Float32Array} image */
function marked(image) {
  const places = [...image.keys()].filter((place) => image[place] > 0);
  const [ys, xs] = [places.map((place) => Math.floor(place / 28)), places.map((place) => place % 28)];
  return { left: Math.min(...xs), right: Math.max(...xs), top: Math.min(...ys), bottom: Math.max(...ys) };
}

test("pictures are resized as Pillow does", () => {
  for (const { width, height, newWidth, newHeight, pixels, expected } of cases.resized) {
    const found = resized(Uint8Array.from(pixels), width, height, newWidth, newHeight);
    assert.deepEqual([...found], expected, `${width}x${height} to ${newWidth}x${newHeight}`);
  }
});

test("pictures become what the command line makes of them", () => {
  for (const { codebook, picture, expected } of cases.pictures) {
    const given = { ...picture, data: Uint8ClampedArray.from(picture.data) };
    assert.deepEqual([...imageOfPicture(given, codebook)], expected);
  }
});

test("pixel values are scaled to the range of the codebook in float32", () => {
  const all = Uint8Array.from({ length: 256 }, (_, value) => value);
  for (const { low, white, expected } of cases.ranges) {
    assert.deepEqual([...inRange(all, { ...GREY, low, white })], expected);
  }
});

test("a drawing is reduced by area averages", () => {
  const drawing = rectangle(0, 0, 14, 10);
  const whole = { left: 0, top: 0, width: 280, height: 280 };
  const image = imageOfDrawing(drawing, whole, [0, 0, 0], GREY);
  assert.deepEqual([...image.slice(0, 4)], [255, 102, 0, 0]);
  assert.equal(image.reduce((sum, value) => sum + value, 0), 255 + 102);
});

test("what lies beyond a drawing is paper", () => {
  const beyond = { left: -280, top: 0, width: 280, height: 280 };
  const image = imageOfDrawing(rectangle(0, 0, 280, 280), beyond, [9, 9, 9], GREY);
  assert.ok(image.every((value) => value === 9));
});

test("a small drawing in a corner is moved and scaled as MNIST's digits are", () => {
  const drawing = rectangle(20, 30, 60, 130);
  const frame = frameOf(drawing, [0, 0, 0], { fill: 20 / 28, x: 0.5, y: 0.5 });
  assert.ok(frame);
  const image = imageOfDrawing(drawing, frame, [0, 0, 0], GREY);
  const { left, right, top, bottom } = marked(image);
  assert.deepEqual([top, bottom, left, right], [4, 23, 10, 17]);
});

test("no part of a drawing is moved out of the frame", () => {
  const frame = frameOf(rectangle(0, 0, 280, 20), [0, 0, 0], { fill: 1, x: 0.2, y: 0.9 });
  assert.ok(frame);
  assert.ok(Math.abs(frame.left) < 1e-9 && Math.abs(frame.width - 280) < 1e-9);
});

test("a dot is not blown up, and nothing drawn has no frame", () => {
  const dot = frameOf(rectangle(100, 100, 104, 104), [0, 0, 0], { fill: 1, x: 0.5, y: 0.5 });
  assert.equal(dot?.width, 280 / 2.5);
  assert.equal(frameOf(rectangle(0, 0, 0, 0), [0, 0, 0], null), null);
});
