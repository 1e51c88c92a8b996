// Caches the page for offline use: FILES on install, other assets on first request.
// The build fills in FILES and VERSION.
const FILES = __FILES__;
const CACHE = "egeunet-__VERSION__";

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) =>
        Promise.all(
          names
            .filter((name) => name.startsWith("egeunet-") && name !== CACHE)
            .map((name) => caches.delete(name)),
        ),
      )
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith(
    caches
      .match(event.request, { cacheName: CACHE, ignoreSearch: true })
      .then((cached) => cached ?? fetchAndCache(event.request)),
  );
});

async function fetchAndCache(request) {
  const response = await fetch(request);
  if (response.ok && request.url.startsWith(new URL("./assets/", self.location))) {
    const cache = await caches.open(CACHE);
    await cache.put(request, response.clone());
  }
  return response;
}
