/** Keeps the page, so that the next visit needs no network; a new build has another digest, and takes its place. */
const DIGEST = "{{ digest }}";
const SHELL = {{ shell | tojson }}; // what a visit needs beside the models and onnxruntime-web

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(DIGEST).then((cache) => cache.addAll(SHELL)));
});

self.addEventListener("activate", (event) => {
  const isOld = (key) => key.startsWith("chest-xray-") && key !== DIGEST;
  const swept = caches.keys().then((keys) => Promise.all(keys.filter(isOld).map((key) => caches.delete(key))));
  event.waitUntil(swept.then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(kept(request));
});

async function kept(request) {
  const cache = await caches.open(DIGEST);
  const found = await cache.match(request, { ignoreSearch: true });
  if (found) return found;
  const answer = await fetch(request);
  if (answer.ok) await cache.put(request, answer.clone());
  return answer;
}
