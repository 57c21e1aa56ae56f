/**
 * Gray images and their resizing, to the numbers that Pillow and numpy give; no part of the page.
 * @typedef {{width: number, height: number, data: Uint8Array|Float32Array}} Gray
 *   data (height * width): bytes as Pillow's mode L, or floats in [0, 255] as its mode F
 */

const BITS = 22; // of a fixed-point weight, as in Pillow
const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
};

/** Returns the integer nearest to x, of two equally near the even one, as Python's round. */
export function roundEven(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 ? low + 1 : low;
}

/** Returns x rounded to a byte. */
export const toByte = (x) => Math.min(255, Math.max(0, roundEven(x)));

/** Returns the luminance of one pixel of bytes, as Pillow's convert("L"). */
export const luminance = (red, green, blue) => (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;

/** Returns the gray (Gray, bytes) of samples (height * width * channels), of which the first three are colours. */
export function grayOfColours(data, channels, width, height) {
  const gray = new Uint8Array(width * height);
  for (let i = 0, j = 0; i < gray.length; i++, j += channels) gray[i] = luminance(data[j], data[j + 1], data[j + 2]);
  return { width, height, data: gray };
}

/** Returns the gray (Gray, floats) of deep integers, scaled by the smallest of `depths` bits that holds them all. */
export function grayOfDeep(values, width, height, depths) {
  const scale = Math.fround(255 / fullScale(highest(values), depths));
  const data = new Float32Array(values.length);
  for (let i = 0; i < data.length; i++) data[i] = values[i] * scale;
  return { width, height, data };
}

/** Returns the highest of some numbers. */
export const highest = (values) => values.reduce((high, one) => (one > high ? one : high), -Infinity);

/** Returns the maximum of the smallest of `depths` bits that holds a value: 4095 for 4000. */
export const fullScale = (highest, depths) => 2 ** depths.find((bits) => highest < 2 ** bits) - 1;

/** Returns an image (Gray) resized to (width, height) by a filter of FILTERS, as Pillow's resize. */
export function resized(image, width, height, filter) {
  const across = width === image.width ? image : resizedAcross(image, width, FILTERS[filter]);
  return height === image.height ? across : resizedDown(across, height, FILTERS[filter]);
}

/** Returns for each of `size` pixels the first of `from` pixels that it is made of, and their weights. */
function weightsOf(from, size, { support, weight }, isFixed) {
  const scale = from / size;
  const stretch = Math.max(1, scale);
  return Array.from({ length: size }, (_, at) => {
    const centre = (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * stretch + 0.5));
    const end = Math.min(from, Math.trunc(centre + support * stretch + 0.5));
    const weights = Float64Array.from({ length: end - first }, (_, i) => weight((i + first - centre + 0.5) / stretch));
    const sum = weights.reduce((total, one) => total + one, 0);
    for (let i = 0; i < weights.length; i++) {
      weights[i] /= sum;
      if (isFixed) weights[i] = Math.trunc(0.5 + weights[i] * 2 ** BITS);
    }
    return { first, weights };
  });
}

function resizedAcross({ width, height, data }, size, filter) {
  const isFixed = data instanceof Uint8Array;
  const made = new data.constructor(size * height);
  weightsOf(width, size, filter, isFixed).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++) {
      let sum = 0;
      for (let i = 0, at = y * width + first; i < weights.length; i++, at++) sum += data[at] * weights[i];
      made[y * size + x] = isFixed ? ofFixed(sum) : sum;
    }
  });
  return { width: size, height, data: made };
}

function resizedDown({ width, height, data }, size, filter) {
  const isFixed = data instanceof Uint8Array;
  const made = new data.constructor(width * size);
  const sums = new Float64Array(width);
  weightsOf(height, size, filter, isFixed).forEach(({ first, weights }, y) => {
    sums.fill(0);
    for (let i = 0; i < weights.length; i++) {
      for (let x = 0, at = (first + i) * width; x < width; x++, at++) sums[x] += data[at] * weights[i];
    }
    for (let x = 0; x < width; x++) made[y * width + x] = isFixed ? ofFixed(sums[x]) : sums[x];
  });
  return { width, height: size, data: made };
}

const ofFixed = (sum) => Math.min(255, Math.max(0, Math.floor((sum + 2 ** (BITS - 1)) / 2 ** BITS)));

/** Returns {top, left, height, width} of what an X-ray fills in a square of `size`: all, or what keeps its aspect. */
export function contentBox(height, width, size, fit) {
  if (fit === "squash") return { top: 0, left: 0, height: size, width: size };
  const [rows, columns] = [height, width].map((side) => Math.max(1, roundEven((size * side) / Math.max(height, width))));
  return { top: (size - rows) >> 1, left: (size - columns) >> 1, height: rows, width: columns };
}

/** Returns the model input, float (1, 3, S, S), of a gray image, as `preprocessing` says. */
export function modelInput(gray, { image_size: size, fit, resample, image_mean: means, image_std: stds }) {
  const box = contentBox(gray.height, gray.width, size, fit);
  const small = resized(gray, box.width, box.height, resample); // (box.height * box.width)
  const input = Float32Array.from({ length: 3 * size * size }, (_, i) => {
    const channel = Math.trunc(i / (size * size));
    return -means[channel] / stds[channel]; // of black, around a padded X-ray
  });
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < box.height; y++) {
      const start = (channel * size + box.top + y) * size + box.left;
      for (let x = 0; x < box.width; x++) {
        const value = toByte(small.data[y * box.width + x]) / 255;
        input[start + x] = (value - means[channel]) / stds[channel];
      }
    }
  }
  return input;
}
