/**
 * Large files, downloaded in parts that the browser keeps, so that a download goes on where it stopped.
 *
 * Without Cache Storage (pages that are not secure, private windows of some browsers) or without room in it, files
 * are downloaded at each visit.
 */

import type { Bytes } from "./arrays.ts";

const CACHE = "soundctm-files";
const PART = 2 ** 20; // bytes
const ATTEMPTS = 3;

/** A failure that trying again does not mend. */
class PermanentError extends Error {}

/** A file of `files.json`. */
export interface StoredFile {
  path: string;
  bytes: number;
  sha256: string;
}

export class Store {
  /** Whether what is downloaded is kept for the next visit. */
  isKept = true;
  /** Bytes that came from the network. */
  downloaded = 0;
  private readonly base: URL;
  private readonly cache: Promise<Cache | null>;

  constructor(base: URL) {
    this.base = base;
    this.cache = globalThis.caches ? caches.open(CACHE).catch(() => null) : Promise.resolve(null);
  }

  /** Delete what is kept of files that are not in `files`, such as those of an earlier model. */
  async keepOnly(files: StoredFile[]): Promise<void> {
    const cache = await this.cache;
    if (!cache) return;
    const known = new Set(files.map((file) => file.sha256));
    for (const request of await cache.keys()) {
      if (!known.has(new URL(request.url).searchParams.get("sha256") ?? "")) await cache.delete(request);
    }
  }

  /**
   * Read a file, from the browser or from the server.
   *
   * @param onBytes Called with the number of bytes that have arrived since the last call.
   */
  async read(file: StoredFile, onBytes: (count: number) => void): Promise<Bytes> {
    const whole = new Uint8Array(file.bytes);
    const cache = await this.cache;
    if (!cache) this.isKept = false;
    const missing = new Set<number>();
    for (let part = 0; part * PART < file.bytes; part++) {
      const kept = await cache?.match(this.key(file, part));
      if (!kept) {
        missing.add(part);
        continue;
      }
      const bytes = new Uint8Array(await kept.arrayBuffer());
      whole.set(bytes, part * PART);
      onBytes(bytes.length);
    }
    if (missing.size === 0) return whole;
    for (let attempt = 1; missing.size > 0; attempt++) {
      try {
        await this.download(file, whole, missing, onBytes);
      } catch (error) {
        if (attempt === ATTEMPTS || error instanceof PermanentError) throw error;
      }
    }
    if (!(await isIntact(whole, file))) {
      for (let part = 0; part * PART < file.bytes; part++) await cache?.delete(this.key(file, part));
      throw new PermanentError(`The file ${file.path} arrived damaged; reload the page to download it again.`);
    }
    return whole;
  }

  /** Fill the missing parts of `whole`, from the first one to the end of the file. */
  private async download(
    file: StoredFile,
    whole: Bytes,
    missing: Set<number>,
    onBytes: (count: number) => void,
  ): Promise<void> {
    const first = Math.min(...missing) * PART;
    const headers: Record<string, string> = first > 0 ? { Range: `bytes=${first}-` } : {};
    const response = await fetch(new URL(file.path, this.base), { headers }).catch(lost);
    if (!response.ok || !response.body) {
      const status = `status ${response.status}`;
      throw new PermanentError(`The server has no file ${file.path} (${status}); put the model next to the page.`);
    }
    // A server that knows no ranges sends the file from its start.
    let offset = response.status === 206 ? first : 0;
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read().catch(lost);
      if (done) break;
      if (offset + value.length > file.bytes) throw damaged(file);
      whole.set(value, offset);
      this.downloaded += value.length;
      const before = Math.floor(offset / PART);
      offset += value.length;
      const after = offset === file.bytes ? Math.ceil(offset / PART) : Math.floor(offset / PART);
      for (let part = before; part < after; part++) {
        if (!missing.delete(part)) continue;
        const bytes = whole.slice(part * PART, Math.min((part + 1) * PART, file.bytes));
        onBytes(bytes.length);
        await this.keep(file, part, bytes);
      }
    }
    if (offset < file.bytes) lost();
  }

  private async keep(file: StoredFile, part: number, bytes: Bytes): Promise<void> {
    if (!this.isKept) return;
    try {
      await (await this.cache)?.put(this.key(file, part), new Response(bytes));
    } catch {
      this.isKept = false; // the browser has no room left
    }
  }

  private key(file: StoredFile, part: number): string {
    return new URL(`${file.path}?sha256=${file.sha256}&part=${part}`, this.base).href;
  }
}

async function isIntact(content: Bytes, file: StoredFile): Promise<boolean> {
  if (!globalThis.crypto?.subtle) return true; // pages that are not secure have no digests
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === file.sha256;
}

function lost(): never {
  throw new Error("The connection was lost. What has arrived is kept; reload the page to go on.");
}

function damaged(file: StoredFile): PermanentError {
  return new PermanentError(`The server's ${file.path} is not the one of files.json; build the folder again.`);
}
