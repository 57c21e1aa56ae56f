/** Wires the page: models once, then each file that is dropped or chosen, one after the other. Nothing is sent. */
import { Reader } from "./reader.js";
import { maskPng, readingHtml, reportHtml } from "./view.js";

const CONTROL_WAIT = 5000; // milliseconds for the service worker to take over; without it the page only works online
const element = (id) => document.getElementById(id);
const [result, files, input, drop] = ["result", "files", "file", "drop"].map(element);
let turn = Promise.resolve(); // of the file that is read now
let links = []; // addresses of the files of the last reading

/** Shows a sentence where a reading will be. */
function say(text, className = "nothing") {
  const section = Object.assign(document.createElement("section"), { className });
  section.append(Object.assign(document.createElement("p"), { textContent: text }));
  if (className === "problem") section.setAttribute("role", "alert");
  result.replaceChildren(section);
}

/** Waits until the browser has drawn what was said. */
const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));

/** Has what is loaded from now on kept for the next visit, which then needs no network. */
async function keepOffline() {
  if (!navigator.serviceWorker) return; // a page at an address without TLS
  const isControlled = new Promise((done) => {
    if (navigator.serviceWorker.controller) done();
    else navigator.serviceWorker.addEventListener("controllerchange", done, { once: true });
  });
  try {
    await navigator.serviceWorker.register("sw.js");
    await Promise.race([isControlled, new Promise((done) => setTimeout(done, CONTROL_WAIT))]);
  } catch (error) {
    console.warn("The page is not kept for use without a network:", error);
  }
}

async function load() {
  say("Loading the models …");
  await keepOffline();
  const page = await (await fetch("page.json")).json();
  const reader = await Reader.load(page);
  say("Ready: the reading appears here.");
  document.body.dataset.state = "ready";
  return { page, reader };
}

async function show(ready, name, bytesOf) {
  const { page, reader } = await ready;
  say(`${name}: reading …`);
  links.forEach((url) => URL.revokeObjectURL(url));
  files.replaceChildren();
  await drawn();
  const started = performance.now();
  try {
    const reading = await reader.read(await bytesOf(), name);
    result.innerHTML = readingHtml(reading, page);
    result.dataset.milliseconds = performance.now() - started;
    offer(reading, page);
  } catch (error) {
    say(`${name} could not be read. ${error.message}`, "problem");
  }
  if (innerWidth <= 760) result.scrollIntoView({ behavior: "smooth" });
}

/** Offers the mask and the report of a reading; both are made in this tab. */
function offer(reading, page) {
  const stem = reading.name.replace(/\.[^.]*$/, "");
  const made = [["Report (HTML), printable", `${stem}-report.html`, new Blob([reportHtml(reading, page)], { type: "text/html" })]];
  if (reading.mask) made.unshift(["Mask (PNG)", `${stem}-lungs.png`, maskPng(reading.mask)]);
  links = made.map(([, , blob]) => URL.createObjectURL(blob));
  const line = document.createElement("p");
  line.append("Download", ...made.map(([text, download], i) =>
    Object.assign(document.createElement("a"), { textContent: text, download, href: links[i] })));
  files.replaceChildren(line);
}

const ready = load();
ready.catch((error) => say(`The page could not be loaded. ${error.message}`, "problem"));

const enqueue = (name, bytesOf) => (turn = turn.then(() => show(ready, name, bytesOf)).catch(() => {}));
const enqueueFiles = (list) =>
  [...list].forEach((file) => enqueue(file.name, async () => new Uint8Array(await file.arrayBuffer())));

input.addEventListener("change", () => {
  enqueueFiles(input.files);
  input.value = ""; // so that the same file can be chosen again
});
for (const event of ["dragover", "drop"]) document.addEventListener(event, (one) => one.preventDefault());
document.addEventListener("dragover", () => drop.classList.add("over"));
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  enqueueFiles(event.dataTransfer.files);
});
for (const button of document.querySelectorAll(".example")) {
  const { file, name } = button.dataset;
  button.addEventListener("click", () =>
    enqueue(name, async () => new Uint8Array(await (await fetch(file)).arrayBuffer())));
}
