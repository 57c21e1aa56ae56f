/**
 * Lung masks on an X-ray's own pixels, and the X-ray cut to its lungs, as the Python package finds and cuts them.
 * @typedef {{width: number, height: number, data: Uint8Array}} Mask  data (height * width) of 0 and 1
 */
import { contentBox, roundEven, toByte } from "./pixels.js";

/** Returns the mask of logits (2, s, s) on an X-ray of (height, width). */
export function maskOfLogits(logits, s, height, width, { fit, two_lungs: isTwo }) {
  const margin = Float32Array.from({ length: s * s }, (_, i) => logits[s * s + i] - logits[i]); // (s, s)
  const side = Math.max(height, width);
  const box = fit === "squash" ? { top: 0, left: 0, height, width } : contentBox(height, width, side, fit);
  const [rows, columns] = fit === "squash" ? [height, width] : [side, side];
  const mask = aboveZero(margin, s, rows, columns, { ...box, height, width });
  return isTwo ? keepTwoLungs(mask) : mask;
}

/** Returns the two of s pixels that each of `size` lies between, and the weight of the second; bilinear as in torch. */
function betweens(s, size) {
  return Array.from({ length: size }, (_, at) => {
    const place = Math.max(0, ((at + 0.5) * s) / size - 0.5);
    const first = Math.min(s - 1, Math.floor(place));
    return { first, second: Math.min(s - 1, first + 1), weight: place - first };
  });
}

/** Returns where a map (s, s), upsampled to (rows, columns) and cut to a box, is above 0. */
function aboveZero(map, s, rows, columns, { top, left, height, width }) {
  const wide = new Float32Array(s * width);
  betweens(s, columns).slice(left, left + width).forEach(({ first, second, weight }, x) => {
    for (let y = 0; y < s; y++) wide[y * width + x] = map[y * s + first] * (1 - weight) + map[y * s + second] * weight;
  });
  const data = new Uint8Array(height * width);
  betweens(s, rows).slice(top, top + height).forEach(({ first, second, weight }, y) => {
    for (let x = 0; x < width; x++) {
      data[y * width + x] = wide[first * width + x] * (1 - weight) + wide[second * width + x] * weight > 0 ? 1 : 0;
    }
  });
  return { width, height, data };
}

/** Returns runs of equal pixels of a mask, none beyond its row: start, end (excluded) and value of each. */
function runsOf({ width, height, data }) {
  const runs = [];
  for (let row = 0; row < width * height; row += width) {
    for (let at = row; at < row + width; ) {
      const run = { start: at, end: at, value: data[at] };
      while (run.end < row + width && data[run.end] === run.value) run.end++;
      runs.push(run);
      at = run.end;
    }
  }
  return runs;
}

/** Returns the region number of each run: runs of one value that touch along their sides have that of the first. */
function regionsOf(runs, width) {
  const parents = runs.map((_, i) => i);
  const root = (i) => {
    while (parents[i] !== i) i = parents[i] = parents[parents[i]];
    return i;
  };
  const join = (i, j) => {
    if (runs[i].value !== runs[j].value) return;
    const [low, high] = [root(i), root(j)].sort((a, b) => a - b);
    parents[high] = low;
  };
  for (let i = 0, above = 0; i < runs.length; i++) {
    const { start, end } = runs[i];
    if (start % width) join(i - 1, i); // two runs of one value once a region has been dropped
    while (runs[above].end + width <= start && above < i) above++;
    for (let j = above; j < i && runs[j].start + width < end; j++) if (runs[j].end + width > start) join(i, j);
  }
  return runs.map((_, i) => root(i));
}

/** Returns the two largest regions of a mask, their holes filled; an empty mask stays empty. */
export function keepTwoLungs(mask) {
  const { width, height } = mask;
  const runs = runsOf(mask);
  let regions = regionsOf(runs, width);
  const sizes = new Map();
  runs.forEach(({ start, end, value }, i) => {
    if (value) sizes.set(regions[i], (sizes.get(regions[i]) ?? 0) + end - start);
  });
  const lungs = new Set([...sizes].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, 2).map(([region]) => region));
  runs.forEach((run, i) => (run.value = run.value && lungs.has(regions[i]) ? 1 : 0));
  regions = regionsOf(runs, width);
  const open = new Set(); // background that reaches the border
  runs.forEach(({ start, end, value }, i) => {
    const isRim = start < width || start >= width * (height - 1) || start % width === 0 || end % width === 0;
    if (!value && isRim) open.add(regions[i]);
  });
  const data = new Uint8Array(width * height);
  runs.forEach(({ start, end }, i) => data.fill(open.has(regions[i]) ? 0 : 1, start, end));
  return { width, height, data };
}

/** Returns {top, left, bottom, right}, the last two excluded, of a mask that holds lung, widened by `margin` of it. */
export function lungsBox({ width, height, data }, margin) {
  let [top, left, bottom, right] = [height, width, 0, 0];
  for (let first = data.indexOf(1); first >= 0; first = data.indexOf(1, bottom * width)) {
    const row = Math.trunc(first / width);
    top = Math.min(top, row);
    bottom = row + 1;
    left = Math.min(left, first - row * width);
    right = Math.max(right, data.lastIndexOf(1, bottom * width - 1) - row * width + 1);
  }
  const [down, across] = [bottom - top, right - left].map((side) => roundEven(margin * side));
  return {
    top: Math.max(0, top - down),
    left: Math.max(0, left - across),
    bottom: Math.min(height, bottom + down),
    right: Math.min(width, right + across),
  };
}

/** Returns the part of an image or a mask in a box. */
function cut({ width, data }, { top, left, bottom, right }) {
  const made = new data.constructor((bottom - top) * (right - left));
  for (let y = top; y < bottom; y++) {
    made.set(data.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  }
  return { width: right - left, height: bottom - top, data: made };
}

/** Returns all within `reach` pixels of a mask, along rows and columns. */
export function widen(mask, reach) {
  const across = spread(mask, reach, mask.width, mask.height, 1, mask.width);
  return spread(across, reach, mask.height, mask.width, mask.width, 1);
}

/** Returns a mask spread by `reach` along `lines` of `length` pixels, `step` apart; lines begin `stride` apart. */
function spread({ width, height, data }, reach, length, lines, step, stride) {
  const made = new Uint8Array(data.length);
  for (let line = 0; line < lines; line++) {
    for (let at = 0, end = 0; at < length; at++) {
      if (!data[line * stride + at * step]) continue;
      for (let i = Math.max(end, at - reach); i < Math.min(length, at + reach + 1); i++) made[line * stride + i * step] = 1;
      end = Math.min(length, at + reach + 1);
    }
  }
  return { width, height, data: made };
}

/** Returns a gray image cut to its lungs at one brightness, all else mid-gray; the whole image without lungs. */
export function croppedToLungs(gray, mask, { margin, mean: wantedMean, sd: wantedSd }) {
  const lungs = mask.data.includes(1) ? mask : { ...mask, data: mask.data.map(() => 1) };
  const bare = lungsBox(lungs, 0);
  const reach = roundEven((margin / 2) * Math.max(bare.bottom - bare.top, bare.right - bare.left));
  const box = lungsBox(lungs, margin);
  const seen = cut(gray, box);
  const inside = widen(cut(lungs, box), reach).data;
  let [sum, squares, count] = [0, 0, 0];
  for (let i = 0; i < inside.length; i++) if (inside[i]) [sum, count] = [sum + seen.data[i], count + 1];
  const mean = sum / count;
  for (let i = 0; i < inside.length; i++) if (inside[i]) squares += (seen.data[i] - mean) ** 2;
  const scale = wantedSd / (Math.sqrt(squares / count) || 1);
  const data = new Uint8Array(inside.length).fill(wantedMean);
  for (let i = 0; i < inside.length; i++) if (inside[i]) data[i] = toByte(wantedMean + scale * (seen.data[i] - mean));
  return { width: seen.width, height: seen.height, data };
}
