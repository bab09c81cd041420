// Builds the page into dist/: scripts, styles, and ONNX Runtime with its WebAssembly compressed.
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const RUNTIMES = { wasm: "ort-wasm-simd-threaded", webgpu: "ort-wasm-simd-threaded.asyncify" };
const shared = {
  bundle: true,
  format: "esm",
  minify: true,
  outdir: "dist",
  target: "es2022",
  conditions: ["onnxruntime-web-use-extern-wasm"], // ONNX Runtime's scripts without their WebAssembly
  logLevel: "warning",
};

const sha256 = (content) => createHash("sha256").update(content);

rmSync("dist", { recursive: true, force: true });
mkdirSync("dist/runtime", { recursive: true });
cpSync("public", "dist", { recursive: true });
const runtimes = {};
for (const [device, name] of Object.entries(RUNTIMES)) {
  const from = `node_modules/onnxruntime-web/dist/${name}`;
  const script = `runtime/${name}.mjs`;
  cpSync(`${from}.mjs`, `dist/${script}`);
  const packed = gzipSync(readFileSync(`${from}.wasm`), { level: 9 });
  const wasm = { path: `runtime/${name}.wasm.packed`, bytes: packed.length, sha256: sha256(packed).digest("hex") };
  writeFileSync(`dist/${wasm.path}`, packed);
  runtimes[device] = { script, wasm };
}
await build({
  ...shared,
  entryPoints: ["src/page.ts", "src/worker.ts"],
  splitting: true,
  define: { RUNTIMES: JSON.stringify(runtimes) },
});

// What the service worker keeps: all but the packed files, which the page keeps itself.
const shell = readdirSync("dist", { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && !entry.name.endsWith(".packed"))
  .map((entry) => `${entry.parentPath}/${entry.name}`.replace(/\\/g, "/").replace(/^dist\//, ""))
  .sort();
const hash = sha256("");
for (const path of shell) hash.update(path).update(readFileSync(`dist/${path}`));
await build({
  ...shared,
  format: "iife", // not every browser has service workers that are modules
  entryPoints: ["src/service_worker.ts"],
  define: { VERSION: JSON.stringify(hash.digest("hex").slice(0, 16)), SHELL: JSON.stringify(["./", ...shell]) },
});
