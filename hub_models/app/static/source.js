/**
 * A file's bytes to a gray image with its full range kept: PNG, JPEG, uncompressed DICOM.
 * Errors are sentences for the visitor. DICOM elements of the patient are not looked up.
 */
import { decode } from "./vendor/fast-png/index.js";
import dicomParser from "./vendor/dicom-parser.js";
import { fullScale, grayOfColours, grayOfDeep, highest, resized } from "./pixels.js";

const CHROMA_SIDE = 64; // pixels to which colours are averaged before their spread is measured
const [EXIF_CHUNK, ORIENTATION_TAG] = [0x65584966, 0x0112]; // "eXIf" of a PNG, and the tag in it
const LITTLE_ENDIAN = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]; // implicit and explicit VR, uncompressed

/**
 * Returns {gray: Gray, chroma, flags} of a file: chroma is the mean spread of its colours in [0, 255]; flags are [code, values].
 * @param {Uint8Array} bytes @param {string} name @param {object} limits of page.json
 */
export async function decoded(bytes, name, limits) {
  const starts = (...head) => head.every((byte, i) => bytes[i] === byte);
  const isDicom = String.fromCharCode(...bytes.subarray(128, 132)) === "DICM" || /\.(dcm|dicom)$/i.test(name);
  let read;
  if (isDicom) read = ofDicom(bytes, limits);
  else if (starts(0x89, 0x50, 0x4e, 0x47)) read = ofPng(bytes, limits);
  else if (starts(0xff, 0xd8)) read = await ofJpeg(bytes, limits);
  else throw new Error("This is not an image that the page reads: drop a PNG, JPEG or uncompressed DICOM file.");
  const { width, height } = read.gray;
  if (Math.min(width, height) < limits.least_side) {
    throw new Error(`The image has ${width}x${height} pixels, too few to see anything.`);
  }
  return { flags: [], chroma: 0, ...read };
}

function checkSize(width, height, { most_pixels: most }) {
  if (!(width * height > 0 && width * height <= most)) {
    throw new Error(`The image has ${width}x${height} pixels, not 1 to ${most}: scale it down.`);
  }
}

function ofPng(bytes, limits) {
  const header = new DataView(bytes.buffer, bytes.byteOffset);
  checkSize(bytes.length > 24 ? header.getUint32(16) : 0, bytes.length > 24 ? header.getUint32(20) : 0, limits);
  let png;
  try {
    png = decode(bytes, { checkCrc: true });
  } catch {
    throw new Error("The PNG file is damaged: get a sound copy.");
  }
  const read = ofSamples(png, limits);
  return { ...read, gray: turned(read.gray, orientationOf(bytes)) };
}

/** Returns the EXIF orientation of a sound PNG, 1 (upright) to 8; 1 where it says none. */
function orientationOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 8;
  while (view.getUint32(at + 4) !== EXIF_CHUNK) {
    at += 12 + view.getUint32(at);
    if (at + 12 > bytes.length) return 1;
  }
  const exif = new DataView(view.buffer, view.byteOffset + at + 8, view.getUint32(at));
  try {
    const isLittle = exif.getUint16(0) === 0x4949;
    const directory = exif.getUint32(4, isLittle);
    for (let i = 0; i < exif.getUint16(directory, isLittle); i++) {
      const entry = directory + 2 + 12 * i;
      if (exif.getUint16(entry, isLittle) === ORIENTATION_TAG) return exif.getUint16(entry + 8, isLittle);
    }
  } catch {
    return 1; // damaged, as in the Python package
  }
  return 1;
}

/** Returns an image (Gray) upright, by its EXIF orientation; as it is for a value that EXIF does not know. */
function turned(gray, orientation) {
  const [right, bottom] = [gray.width - 1, gray.height - 1];
  const place = {
    2: (x, y) => [right - x, y],
    3: (x, y) => [right - x, bottom - y],
    4: (x, y) => [x, bottom - y],
    5: (x, y) => [y, x],
    6: (x, y) => [y, bottom - x],
    7: (x, y) => [right - y, bottom - x],
    8: (x, y) => [right - y, x],
  }[orientation];
  if (!place) return gray;
  const [width, height] = orientation > 4 ? [gray.height, gray.width] : [gray.width, gray.height];
  const data = new gray.data.constructor(gray.data.length);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const [column, row] = place(x, y);
      data[i] = gray.data[row * gray.width + column];
    }
  }
  return { width, height, data };
}

/** Returns {gray, chroma} of the samples of a PNG. */
function ofSamples(png, limits) {
  const { width, height, channels, depth, palette } = png;
  if (channels === 1 && depth === 16) return { gray: grayOfDeep(png.data, width, height, limits.bit_depths) };
  const data = depth < 8 ? unpacked(png) : depth === 16 ? png.data.map((one) => one >> 8) : png.data; // as Pillow
  if (palette) {
    const colours = new Uint8Array(3 * data.length);
    for (let i = 0; i < colours.length; i++) colours[i] = palette[data[Math.trunc(i / 3)]]?.[i % 3] ?? 0;
    return ofColours(colours, 3, width, height);
  }
  if (channels > 2) return ofColours(data, channels, width, height);
  return { gray: { width, height, data: channels === 1 ? data : data.filter((_, i) => i % 2 === 0) } };
}

/** Returns the samples of 1, 2 or 4 bits (height * width); gray is scaled to a byte, indices stay. */
function unpacked({ width, height, depth, data, palette }) {
  const line = Math.ceil((width * depth) / 8);
  const scale = palette ? 1 : 255 / (2 ** depth - 1);
  return new Uint8Array(width * height).map((_, i) => {
    const x = i % width;
    const byte = data[Math.trunc(i / width) * line + ((x * depth) >> 3)];
    return ((byte >> (8 - depth - ((x * depth) & 7))) & (2 ** depth - 1)) * scale;
  });
}

async function ofJpeg(bytes, limits) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" }); // upright by its EXIF
  } catch {
    throw new Error("The JPEG file is damaged: get a sound copy.");
  }
  const { width, height } = bitmap;
  checkSize(width, height, limits);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return ofColours(context.getImageData(0, 0, width, height).data, 4, width, height);
}

/** Returns {gray, chroma} of samples (height * width * channels), of which the first three are colours. */
function ofColours(data, channels, width, height) {
  const small = [0, 1, 2].map((channel) => {
    const one = new Uint8Array(width * height);
    for (let i = 0, j = channel; i < one.length; i++, j += channels) one[i] = data[j];
    return resized({ width, height, data: one }, CHROMA_SIDE, CHROMA_SIDE, "box").data;
  });
  let spread = 0;
  small[0].forEach((red, i) => {
    spread += Math.max(red, small[1][i], small[2][i]) - Math.min(red, small[1][i], small[2][i]);
  });
  return { gray: grayOfColours(data, channels, width, height), chroma: spread / CHROMA_SIDE ** 2 };
}

/** Returns {gray, flags} of a DICOM file as a screen shows it: window or full range, polarity, padding. */
function ofDicom(bytes, limits) {
  let set;
  try {
    set = dicomParser.parseDicom(bytes);
  } catch {
    throw new Error("This is not a DICOM file, or it is cut off: get a sound copy.");
  }
  const word = (tag) => (set.string(tag) ?? "").trim().toUpperCase();
  const photometric = word("x00280004");
  const [allocated, stored, isSigned] = [set.uint16("x00280100"), set.uint16("x00280101"), set.uint16("x00280103")];
  const [height, width] = [set.uint16("x00280010") ?? 0, set.uint16("x00280011") ?? 0];
  const element = set.elements.x7fe00010;
  if (!limits.modalities.includes(word("x00080060"))) throw new Error("The DICOM file is of another modality, no X-ray.");
  if (!LITTLE_ENDIAN.includes(word("x00020010"))) {
    throw new Error("The pixels of the DICOM file are compressed: save it uncompressed, as explicit VR little endian.");
  }
  if (!["MONOCHROME1", "MONOCHROME2"].includes(photometric)) throw new Error("The DICOM file is not gray.");
  if (set.elements.x00283000 || set.elements.x00283010) {
    throw new Error("The DICOM file holds a lookup table for its gray, which this page does not apply.");
  }
  checkSize(width, height, limits);
  if (![8, 16].includes(allocated) || !(stored > 0 && stored <= allocated) || (set.intString("x00280008") ?? 1) > 1) {
    throw new Error("The DICOM file does not hold one frame of 8 or 16 bits.");
  }
  if (!element || element.length < (width * height * allocated) / 8) throw new Error("The DICOM file is cut off.");
  const Values = { 8: [Uint8Array, Int8Array], 16: [Uint16Array, Int16Array] }[allocated][isSigned ? 1 : 0];
  const start = bytes.byteOffset + element.dataOffset; // perhaps odd, so of a copy
  const values = new Values(bytes.buffer.slice(start, start + (width * height * allocated) / 8));
  const { data, flags } = shown(set, values, word, limits);
  return { gray: { width, height, data }, flags: [...flagsOf(word, limits), ...flags] };
}

/** Returns {data, flags}: the gray in [0, 255] of stored values, as `displayed` of the Python package. */
function shown(set, values, word, { bit_depths: depths }) {
  const numbers = (tag) => (set.string(tag) ?? "").split("\\").map(Number.parseFloat);
  const [slope, intercept] = [numbers("x00281053")[0] || 1, numbers("x00281052")[0] || 0];
  const shape = word("x00281056") || "LINEAR";
  const least = { LINEAR: 1, LINEAR_EXACT: 1e-6, SIGMOID: 1e-6 }[shape] ?? Infinity;
  const [centres, widths] = [numbers("x00281050"), numbers("x00281051")];
  const areFinite = [...centres, ...widths].every(Number.isFinite);
  const windows = centres.map((centre, i) => [centre, widths[i]]).filter(([, width]) => areFinite && width >= least);
  const counts = new Uint32Array(2 ** 16); // by the 16 bits of a value: far fewer than pixels
  for (let i = 0; i < values.length; i++) counts[values[i] & 0xffff]++;
  const isSigned = set.uint16("x00280103") === 1;
  const codes = Int32Array.from({ length: 2 ** 16 }, (_, code) => (isSigned ? (code << 16) >> 16 : code));
  const levels = codes.filter((level) => counts[level & 0xffff]);
  const padding = paddingOf(set, values);
  const some = levels.every(padding) ? levels : levels.filter((level) => !padding(level));
  const raise = isSigned ? 2 ** (set.uint16("x00280101") - 1) : 0;
  const top = fullScale(highest(some) + raise, depths);
  const fraction = (level) => (slope > 0 ? (level + raise) / top : 1 - (level + raise) / top);
  const isInverse = word("x00280004") === "MONOCHROME1";
  const full = Float64Array.from(some, (level) => 255 * fraction(level));
  const held = Float64Array.from(some, (level) => counts[level & 0xffff]);
  let [best, flags] = [full, []];
  for (const [centre, width] of windows) { // the first that leaves a picture
    const seen = Float64Array.from(some, (level) => windowed(level * slope + intercept, centre, width, shape));
    flags = clipping(some, held, seen, full);
    if (!flags.length) {
      best = seen;
      break;
    }
  }
  const grays = Float32Array.from(best, (value) => Math.min(255, Math.max(0, isInverse ? 255 - value : value)));
  const table = new Float32Array(2 ** 16).fill(-highest(grays.map((one) => -one))); // padding as the darkest
  some.forEach((level, i) => (table[level & 0xffff] = grays[i]));
  const data = new Float32Array(values.length);
  for (let i = 0; i < data.length; i++) data[i] = table[values[i] & 0xffff];
  return { data, flags };
}

/** Returns [[code, values]] of a window that leaves no picture, as `_clipping` of the Python package. */
function clipping(levels, counts, seen, full) {
  const ends = [-highest(levels.map((one) => -one)), highest(levels)];
  const inner = counts.map((count, i) => (ends.includes(levels[i]) ? 0 : count));
  const sum = (weights, value) => weights.reduce((total, weight, i) => total + weight * value(i), 0);
  const spread = (grays) => {
    const mean = sum(counts, (i) => grays[i]) / sum(counts, () => 1);
    return Math.sqrt(sum(counts, (i) => (grays[i] - mean) ** 2) / sum(counts, () => 1));
  };
  if (!sum(inner, () => 1)) return [];
  const clipped = sum(inner, (i) => (seen[i] < 0.5 || seen[i] > 254.5 ? 1 : 0)) / sum(inner, () => 1);
  const contrast = spread(seen.map((gray) => Math.min(255, Math.max(0, gray)))) / Math.max(spread(full), 1e-6);
  const percent = (fraction) => `${Math.round(100 * fraction)}%`;
  if (clipped > 0.6) return [["clipping_window", { effect: `clips ${percent(clipped)} of the X-ray` }]];
  return contrast < 0.125 ? [["clipping_window", { effect: `leaves ${percent(contrast)} of the contrast` }]] : [];
}

/** Returns what says whether a stored value is padding; a padding of signed pixels may be written as unsigned. */
function paddingOf(set, values) {
  const value = set.uint16("x00280120");
  if (value === undefined) return () => false;
  const ends = new values.constructor([value, set.uint16("x00280121") ?? value]);
  return (level) => level >= Math.min(...ends) && level <= Math.max(...ends);
}

/** Returns the gray of a value in a window. Source: DICOM PS3.3 C.11.2.1. */
function windowed(value, centre, width, shape) {
  if (shape === "SIGMOID") return 255 / (1 + Math.exp((-4 * (value - centre)) / width));
  const [middle, across] = shape === "LINEAR" ? [centre - 0.5, width - 1] : [centre, width];
  if (value <= middle - across / 2) return 0;
  return value > middle + across / 2 ? 255 : 255 * ((value - middle) / across + 0.5);
}

/** Returns [code] of the flags that a DICOM header raises. */
function flagsOf(word, { chest, lateral }) {
  const letters = word("x00200020").split("\\").map((one) => one[0] ?? "").join("");
  const orientation = /^[APLRHF]{2}$/.test(letters) ? letters : "";
  const holds = {
    other_body_part: !chest.includes(word("x00180015")),
    not_frontal: lateral.includes(word("x00185101")) || !["", "LF", "RF"].includes(orientation),
    mirrored: orientation === "RF",
    raw_detector_data: word("x00080068") === "FOR PROCESSING",
    burned_in_text: word("x00280301") === "YES",
    unclear_polarity: word("x00280004") === "MONOCHROME2" && word("x20500020") === "INVERSE",
  };
  return Object.keys(holds).filter((code) => holds[code]).map((code) => [code]);
}
