/**
 * Keeps the page for visits without a network, and isolates it from other origins so that it may use threads.
 *
 * The model and ONNX Runtime's WebAssembly are kept by `store.ts`.
 */

declare const VERSION: string; // both are set by build.mjs
declare const SHELL: string[];

interface LifeEvent {
  request: Request;
  waitUntil(promise: Promise<unknown>): void;
  respondWith(response: Promise<Response>): void;
}

// The types of pages and those of service workers exclude each other.
const scope = self as unknown as {
  skipWaiting(): Promise<void>;
  clients: { claim(): Promise<void> };
  addEventListener(type: string, listener: (event: LifeEvent) => void): void;
};

const CACHE = `soundctm-page-${VERSION}`;
const FILES = "files.json"; // may change without the page, so the server's comes first

async function install(): Promise<void> {
  const cache = await caches.open(CACHE);
  await cache.addAll([...SHELL, FILES]);
  await scope.skipWaiting();
}

async function activate(): Promise<void> {
  const names = await caches.keys();
  const old = names.filter((name) => name.startsWith("soundctm-page-") && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await scope.clients.claim();
}

async function answer(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (!kept) return fetch(request);
  if (!new URL(request.url).pathname.endsWith(FILES)) return isolated(kept);
  try {
    const response = await fetch(request, { cache: "no-cache" });
    if (response.ok) await cache.put(request, response.clone());
    return response.ok ? response : kept;
  } catch {
    return kept;
  }
}

/** The response with the headers that give a page threads, for servers that do not send them. */
function isolated(response: Response): Response {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, headers });
}

scope.addEventListener("install", (event) => event.waitUntil(install()));
scope.addEventListener("activate", (event) => event.waitUntil(activate()));
scope.addEventListener("fetch", (event) => {
  const isOwn = new URL(event.request.url).origin === location.origin;
  if (isOwn && event.request.method === "GET") event.respondWith(answer(event.request));
});
