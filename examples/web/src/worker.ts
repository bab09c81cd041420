/** Loads the model and makes sounds, so that the page stays responsive. */

import type { Machine, Reply, Request } from "./messages.ts";
import { type Description, Model, PARTS, problemOfModel, type Sessions } from "./model.ts";
import { type Device, hasGraphicsCard, type RuntimeFiles, sessionOptions, startRuntime, threadCount } from "./runtime.ts";
import { Store, type StoredFile } from "./store.ts";

/** `files.json`: what the folder holds, written when it is assembled. */
interface Files {
  /** The model's name, which the Python app and the command line load it by. */
  name: string;
  model: Record<string, StoredFile>;
}

declare const RUNTIMES: Record<Device, RuntimeFiles>; // set by build.mjs

// Graphics cards that accept the model may still fail at it.
const TRIAL = { prompt: "rain", noise: { seed: 0 }, duration: 0.5, steps: 1, omega: 3.5, loop: false };

const base = new URL("./", self.location.href);
let latest = 0;

function reply(message: Reply, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

async function load(): Promise<Model> {
  const response = await fetch(new URL("files.json", base));
  if (!response.ok) throw new Error("The page's folder has no files.json; put it together with `npm run assemble`.");
  const files: Files = await response.json();
  const store = new Store(base);
  const wanted = new URL(self.location.href).searchParams.get("device") as Device | null;
  const device = wanted ?? ((await hasGraphicsCard()) ? "webgpu" : "wasm");
  await store.keepOnly([...Object.values(files.model), ...Object.values(RUNTIMES).map(({ wasm }) => wasm)]);
  try {
    return await loadOn(device, files, store);
  } catch (error) {
    if (device === "wasm") throw error;
    console.warn("WebGPU does not work here; WebAssembly takes its place.", error);
    return loadOn("wasm", files, store);
  }
}

async function loadOn(device: Device, files: Files, store: Store): Promise<Model> {
  const { script, wasm } = RUNTIMES[device];
  const wanted = [wasm, ...Object.values(files.model)];
  const total = wanted.reduce((sum, file) => sum + file.bytes, 0);
  let arrived = 0;
  const read = (file: StoredFile) =>
    store.read(file, (count) => {
      arrived += count;
      reply({ kind: "progress", arrived, total });
    });
  const readJson = async (name: string) => JSON.parse(new TextDecoder().decode(await read(files.model[name])));

  const description: Description = await readJson("soundctm.json");
  const problem = problemOfModel(description);
  if (problem) throw new Error(problem);
  const tokenizer = await readJson("tokenizer.json");
  const runtime = await startRuntime(device, new URL(script, base), await read(wasm));
  const sessions: Partial<Sessions> = {};
  let next = read(files.model[`${PARTS[0]}.onnx`]);
  for (const [i, part] of PARTS.entries()) {
    const content = await next;
    // The next file arrives while this one is prepared.
    if (i + 1 < PARTS.length) next = read(files.model[`${PARTS[i + 1]}.onnx`]);
    sessions[part] = await runtime.InferenceSession.create(content, sessionOptions(device, part));
  }
  const model = new Model(runtime, description, tokenizer, sessions as Sessions);
  if (device === "webgpu" && !(await model.make(TRIAL)).every(Number.isFinite)) throw new Error("Sounds are not finite.");
  const machine: Machine = {
    model: files.name,
    samplingRate: description.sampling_rate,
    device: device === "webgpu" ? "WebGPU" : "WebAssembly",
    threads: threadCount(),
    downloaded: store.downloaded,
    isKept: store.isKept,
  };
  reply({ kind: "ready", machine });
  return model;
}

async function make(model: Model, { request, recipes }: Request): Promise<void> {
  for (const [index, recipe] of recipes.entries()) {
    await new Promise((resolve) => setTimeout(resolve)); // a newer request may be waiting
    if (request !== latest) return;
    const start = performance.now();
    const waveform = await model.make(recipe);
    const seconds = (performance.now() - start) / 1000;
    reply({ kind: "sound", request, index, waveform, seconds }, [waveform.buffer]);
  }
  reply({ kind: "done", request, isCut: model.isTooLong(recipes[0].prompt) });
}

const loading = load();
loading.catch((error) => reply({ kind: "failure", message: error.message }));

let work: Promise<void> = Promise.resolve(); // a session runs one call at a time

self.onmessage = ({ data }: MessageEvent<Request>) => {
  latest = data.request;
  work = work.then(async () => {
    const model = await loading.catch(() => null);
    if (!model) return; // the failure is reported already
    await make(model, data).catch((error) => {
      reply({ kind: "failure", message: `The sound cannot be made: ${error.message}`, request: data.request });
    });
  });
};
