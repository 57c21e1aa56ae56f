/** Reads an X-ray with the models of the page: decode, lungs, probability of tuberculosis, flags. No part of the page. */
import { croppedToLungs, keepTwoLungs, maskOfLogits } from "./lungs.js";
import { modelInput, resized, roundEven } from "./pixels.js";
import { decoded } from "./source.js";

const CHECK_SIDE = 64; // pixels at which a blank or an inverted image is told

/**
 * What was found on one X-ray: `mask` is null without a lung model, `probability` without a TB model; `flags` are codes
 * with their messages.
 * @typedef {{name: string, gray: Gray, mask: ?Mask, probability: ?number, flags: Array<{code: string, message: string}>}}
 *   Reading
 */

export class Reader {
  /** Loads onnxruntime-web and the models named in page.json, from this page's own folder. */
  static async load(page) {
    const folder = new URL("vendor/onnxruntime-web/", import.meta.url);
    const hasGpu = Boolean(await navigator.gpu?.requestAdapter());
    const ort = await import(new URL(hasGpu ? "ort.webgpu.bundle.min.mjs" : "ort.wasm.bundle.min.mjs", folder));
    ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    ort.env.wasm.wasmPaths = { wasm: new URL(`ort-wasm-simd-threaded${hasGpu ? ".asyncify" : ""}.wasm`, folder).href };
    const executionProviders = hasGpu ? ["webgpu", "wasm"] : ["wasm"];
    const models = {};
    for (const [role, settings] of Object.entries(page.models)) {
      const address = new URL(settings.file, import.meta.url).href;
      models[role] = { settings, session: await ort.InferenceSession.create(address, { executionProviders }) };
    }
    const { file } = page.distribution ?? {};
    const distribution = file && new Float32Array(await (await fetch(new URL(file, import.meta.url))).arrayBuffer());
    return new Reader(page, ort, models, distribution);
  }

  /** `distribution`: mean (D) and precision (D * D) of the lung model's features, where the model has them. */
  constructor(page, ort, models, distribution) {
    [this.page, this.ort, this.models, this.distribution] = [page, ort, models, distribution];
  }

  /** Returns the Reading of a file's bytes; throws an Error whose message is a sentence for the visitor. */
  async read(bytes, name) {
    const { gray, chroma, flags } = await decoded(bytes, name, this.page.limits);
    const { lungs, tuberculosis } = this.models;
    let [mask, probability, unlike] = [null, null, []];
    if (lungs) {
      const { logits, features } = await this.#outputs(lungs, gray); // (1, 2, s, s) and, of some models, (1, D)
      mask = maskOfLogits(logits.data, logits.dims[3], gray.height, gray.width, lungs.settings);
      if (features && this.distribution) unlike = this.#distanceFlags(features.data);
    }
    if (tuberculosis) {
      const isCut = tuberculosis.settings.region === "lungs";
      const seen = isCut ? croppedToLungs(gray, keepTwoLungs(mask), this.page.crop) : gray;
      const { logits } = await this.#outputs(tuberculosis, seen); // (1, 2)
      probability = 1 / (1 + Math.exp(logits.data[0] - logits.data[1]));
    }
    const codes = [...this.#imageFlags(gray, chroma), ...flags, ...this.#modelFlags(), ...unlike, ...(mask ? this.#lungFlags(mask) : [])];
    return { name, gray, mask, probability, flags: codes.map(([code, values]) => this.#raised(code, values)) };
  }

  async #outputs({ session, settings }, gray) {
    const size = settings.image_size;
    const pixels = new this.ort.Tensor("float32", modelInput(gray, settings), [1, 3, size, size]);
    return session.run({ pixel_values: pixels });
  }

  /** Returns [code] where the TB model was trained on the lungs that another lung model finds. */
  #modelFlags() {
    const { region, segmenter } = this.models.tuberculosis?.settings ?? {};
    const isOther = region === "lungs" && segmenter && segmenter !== this.models.lungs.settings.digest;
    return isOther ? [["other_segmenter"]] : [];
  }

  /** Returns [code, values] where the Mahalanobis distance of features (D) is beyond the limit. */
  #distanceFlags(features) {
    const off = Float64Array.from(features, (one, i) => one - this.distribution[i]);
    let square = 0;
    for (let i = 0, at = off.length; i < off.length; i++) {
      for (let j = 0; j < off.length; j++, at++) square += off[i] * this.distribution[at] * off[j];
    }
    const [distance, { limit }] = [Math.sqrt(Math.max(0, square)), this.page.distribution];
    if (distance <= limit) return [];
    return [["out_of_distribution", { distance: roundEven(distance), limit: roundEven(limit) }]];
  }

  /** Returns a flag with its message, values put in for the names in braces. */
  #raised(code, values = {}) {
    const message = this.page.messages[code].replace(/\{(\w+)\}/g, (_, key) => values[key]);
    return { code, message };
  }

  /** Returns [code] of what is odd in an image before a model sees it, as `image_flags` of the Python package. */
  #imageFlags(gray, chroma) {
    const { data } = resized(gray, CHECK_SIDE, CHECK_SIDE, "box");
    const mean = (values) => values.reduce((sum, one) => sum + one, 0) / values.length;
    const middle = mean(data);
    const { blank_spread: blank, colour, inverted } = this.page.limits;
    if (Math.sqrt(mean(Array.from(data, (one) => (one - middle) ** 2))) < blank) return [["blank"]];
    const column = (from, to) =>
      mean(Array.from(data).filter((_, i) => i >> 6 >= 12 && i >> 6 < 44 && (i & 63) >= from && (i & 63) < to));
    const isInverted = Math.min(column(12, 26), column(38, 52)) - column(29, 35) > inverted;
    return [...(chroma > colour ? [["colour"]] : []), ...(isInverted ? [["inverted"]] : [])];
  }

  /** Returns [code, values] of what is odd in a lung mask; one lung alone is not noticed. */
  #lungFlags({ width, height, data }) {
    const { area_fractions: [low, high], border_fraction: most } = this.page.limits;
    let count = 0;
    const rims = { top: 0, bottom: 0, left: 0, right: 0 };
    for (let i = 0; i < data.length; i++) count += data[i];
    for (let x = 0; x < width; x++) [rims.top, rims.bottom] = [rims.top + data[x], rims.bottom + data.at(x - width)];
    for (let y = 0; y < height; y++) {
      [rims.left, rims.right] = [rims.left + data[y * width], rims.right + data[(y + 1) * width - 1]];
    }
    if (!count) return [["no_lungs"]];
    const fraction = count / data.length;
    const borders = Object.keys(rims).filter((rim) => rims[rim] / (rim in { top: 0, bottom: 0 } ? width : height) > most);
    const percent = (one) => `${roundEven(100 * one)}%`;
    return [
      ...(fraction < low || fraction > high
        ? [["implausible_size", { fraction: percent(fraction), low: percent(low), high: percent(high) }]]
        : []),
      ...(borders.length ? [["touches_border", { borders: borders.join(", ") }]] : []),
    ];
  }
}
