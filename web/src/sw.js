// Keeps the page on the device: FILES at once, other files when they are first asked for.
// FILES and VERSION are filled in by the build.
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
      .then((kept) => kept ?? ask(event.request)),
  );
});

async function ask(request) {
  const answer = await fetch(request);
  if (answer.ok && request.url.startsWith(new URL("./assets/", self.location))) {
    const cache = await caches.open(CACHE);
    await cache.put(request, answer.clone());
  }
  return answer;
}
