/** Shows a Reading as HTML, in the markup of ../reading.html, with its pictures and what can be downloaded. */
import { encode } from "./vendor/fast-png/index.js";
import { widen } from "./lungs.js";
import { resized, toByte } from "./pixels.js";

const PICTURE_SIDE = 1024; // pixels of a picture's longer side
const RIM = 2; // pixels of the outline to each side of the lungs' edge
const OUTLINE = [255, 160, 20];

const escaped = (text) =>
  String(text).replace(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`); // a file's name may hold markup
const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** Returns the HTML of a reading: verdict, pictures, checks, measures. */
export function readingHtml(reading, page) {
  const { name, mask, flags, gray } = reading;
  const pictures = picturesOf(reading);
  const fine = mask ? ["Nothing odd about the lungs was found."] : [];
  const remarks = flags.length ? flags.map(({ message }) => sentence(message)) : fine;
  const facts = { "X-ray": `${gray.width} x ${gray.height} pixels` };
  if (mask) facts.Lungs = `${((100 * mask.data.reduce((sum, one) => sum + one, 0)) / mask.data.length).toFixed(1)}% of the image`;
  const chosen = pictures.map(
    ([title], i) =>
      `<label><input type="radio" name="view" class="show-${i + 1}" ${i ? "" : "checked"}><span>${title}</span></label>`,
  );
  const shown = pictures.map(
    ([, url, words], i) =>
      `<figure class="view view-${i + 1}"><img src="${url}" alt="${words}"><figcaption>${words}</figcaption></figure>`,
  );
  return `<article class="reading" data-name="${escaped(name)}" data-probability="${reading.probability ?? ""}">
${verdictHtml(reading, page)}
<div class="views">
${chosen.length > 1 ? `<fieldset><legend>Show</legend>${chosen.join("")}</fieldset>` : ""}${shown.join("\n")}
</div>
<div class="facts">
${remarks.length ? `<h3>Checks</h3><ul data-flags="${flags.map(({ code }) => code).join(" ")}" class="${flags.length ? "flags" : "fine"}">${remarks.map((one) => `<li>${escaped(one)}</li>`).join("")}</ul>` : ""}
<h3>Measures</h3>
<dl>${Object.entries(facts).map(([key, value]) => `<div><dt>${key}</dt><dd>${value}</dd></div>`).join("")}</dl>
${reading.probability === null ? "" : `<p class="small">${escaped(page.meaning)}</p>`}
</div>
</article>`;
}

function verdictHtml({ name, probability, flags }, page) {
  const title = `<p class="name">${escaped(name)}</p>`;
  if (probability === null) return `<header class="verdict not-suspected" role="status">${title}</header>`;
  const { threshold } = page.models.tuberculosis;
  const isSuspected = probability >= threshold;
  // as many digits, two to four, as tell both apart
  const digits = [2, 3, 4].find((one) => probability.toFixed(one) !== threshold.toFixed(one)) ?? 2;
  const [shown, limit] = [probability.toFixed(digits), threshold.toFixed(digits)];
  const verdict = `${page.verdicts[isSuspected]}${flags.length ? ", but see the flags" : ""}`;
  return `<header class="verdict ${isSuspected ? "suspected" : "not-suspected"}" role="status">
${title}
<h2>${sentence(verdict).slice(0, -1)}</h2>
<p class="probability"><strong>${shown}</strong> probability</p>
<div class="scale" role="img" style="--threshold: ${threshold}; --probability: ${probability}"
  aria-label="Probability ${shown}, threshold ${limit}, on a scale from 0 to 1">
<div class="track"><i class="dot"></i><i class="tick"></i></div>
<div class="labels"><span>0</span><span class="at">threshold ${limit}</span><span>1</span></div>
</div>
<p>${sentence(page.advice[isSuspected])}</p>
</header>`;
}

/** Returns [title, data URL, description] of each picture, the lungs first where there are any. */
function picturesOf({ gray, mask, flags }) {
  const scale = PICTURE_SIDE / Math.max(gray.width, gray.height);
  const [width, height] = [gray.width, gray.height].map((side) => Math.max(1, Math.round(side * scale)));
  const filter = scale <= 1 ? "box" : "bilinear";
  const small = resized(gray, width, height, filter);
  const pictures = [["X-ray", jpeg(small), "The X-ray as it came, scaled"]];
  if (mask) {
    const soft = resized({ ...mask, data: mask.data.map((one) => 255 * one) }, width, height, filter);
    const edge = flags.some(({ code }) => code === "mirrored") ? "right" : "left";
    const words = `The lungs as the model finds them; the patient's right is at the ${edge}`;
    pictures.unshift(["Lungs", jpeg(small, rimOf({ width, height, data: soft.data.map((one) => (one > 127 ? 1 : 0)) })), words]);
  }
  return pictures;
}

/** Returns the mask of the line along the edge of another; it closes where the lungs meet the border. */
function rimOf({ width, height, data }) {
  const [across, down] = [width + 2 * RIM, height + 2 * RIM];
  const outside = { width: across, height: down, data: new Uint8Array(across * down).fill(1) };
  for (let i = 0; i < data.length; i++) {
    if (data[i]) outside.data[(Math.trunc(i / width) + RIM) * across + (i % width) + RIM] = 0;
  }
  const [far, near] = [widen(outside, RIM).data, widen({ ...outside, data: outside.data.map((one) => 1 - one) }, RIM).data];
  const rim = data.map((_, i) => {
    const at = (Math.trunc(i / width) + RIM) * across + (i % width) + RIM;
    return far[at] & near[at];
  });
  return { width, height, data: rim };
}

/** Returns the data URL of a gray picture as JPEG, a line drawn where a mask says. */
function jpeg({ width, height, data }, line = null) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let i = 0; i < data.length; i++) {
    const gray = toByte(data[i]);
    image.data.set(line?.data[i] ? [...OUTLINE, 255] : [gray, gray, gray, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.toDataURL("image/jpeg", 0.9);
}

/** Returns the 1-bit PNG of a mask, as large as its X-ray. */
export function maskPng({ width, height, data }) {
  const line = Math.ceil(width / 8);
  const bits = new Uint8Array(line * height);
  for (let i = 0; i < data.length; i++) {
    const x = i % width;
    if (data[i]) bits[Math.trunc(i / width) * line + (x >> 3)] |= 128 >> (x & 7);
  }
  return new Blob([encode({ width, height, channels: 1, depth: 1, data: bits })], { type: "image/png" });
}

/** Returns the report of a reading, an HTML document that needs no other file and prints to one page. */
export function reportHtml(reading, page) {
  const lines = page.made_by.map((line) => `<p>${escaped(line)}</p>`).join("");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(reading.name)}: chest X-ray, read by a program</title>
<style>${page.report_css}</style>
</head>
<body>
<header class="top">
<h1>Chest X-ray, read by a program</h1>
<p>${new Date().toISOString().slice(0, 10)}</p>
<p class="warning">${escaped(page.no_device)}</p>
</header>
${readingHtml(reading, page)}
<footer class="made">${lines}</footer>
</body>
</html>`;
}
