/** ONNX Runtime, on the graphics card where that works, else on the processor. */

import type { InferenceSession } from "onnxruntime-web";

import type { Bytes } from "./arrays.ts";
import type { Part, Runtime } from "./model.ts";
import type { StoredFile } from "./store.ts";

const ERRORS = 3; // of ONNX Runtime's log levels; its warnings are about speed
const MOST_THREADS = 4; // more gain nothing with a network this small

export type Device = "wasm" | "webgpu";

/** A build of ONNX Runtime: its script, and its packed WebAssembly. */
export interface RuntimeFiles {
  script: string;
  wasm: StoredFile;
}

/** Whether there is a graphics card. A graphics card in software is slower than WebAssembly. */
export async function hasGraphicsCard(): Promise<boolean> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && !adapter.info?.isFallbackAdapter);
}

/** Threads share memory, which browsers allow pages that are isolated from other origins. */
export function threadCount(): number {
  return globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
}

/**
 * Start ONNX Runtime.
 *
 * @param packed Its WebAssembly, compressed with gzip, which not every server does.
 */
export async function startRuntime(device: Device, script: URL, packed: Bytes): Promise<Runtime> {
  const runtime: Runtime =
    device === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  runtime.env.wasm.wasmBinary = await new Response(unpacked).arrayBuffer();
  runtime.env.wasm.wasmPaths = { mjs: script.href };
  runtime.env.wasm.numThreads = threadCount();
  return runtime;
}

/** Options of a part's session. The text encoder reads integers, which graphics cards do not compute with. */
export function sessionOptions(device: Device, part: Part): InferenceSession.SessionOptions {
  const providers = device === "webgpu" && part !== "text_encoder" ? ["webgpu", "wasm"] : ["wasm"];
  return { executionProviders: providers, graphOptimizationLevel: "all", logSeverityLevel: ERRORS };
}
