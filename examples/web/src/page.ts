/** The page: ask, listen, pick, refine, save. */

import type { Floats } from "./arrays.ts";
import { Client } from "./client.ts";
import { drawWaveform } from "./draw.ts";
import { allowedGain } from "./level.ts";
import type { Machine } from "./messages.ts";
import { Player } from "./player.ts";
import { DRAFTS, fileName, problemOf, type Recipe, STEPS } from "./recipe.ts";
import { finish, soundFile } from "./sound_file.ts";

const find = <Kind extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as Kind;
const field = (id: string) => find<HTMLInputElement>(id);

const player = new Player();
const sounds = new Map<string, Floats>(); // by recipe
let machine: Machine | null = null;
let drafts: Recipe[] = [];
let picked: Recipe | null = null;
let gain = 0;

const soundOf = (recipe: Recipe | null) => recipe && sounds.get(JSON.stringify(recipe));

function say(message: string): void {
  find("status").textContent = message;
}

function warn(message: string): void {
  find("alert").textContent = message;
}

const client = new Client(new URL(`worker.js${location.search}`, document.baseURI), {
  onProgress(arrived, total) {
    const progress = find<HTMLProgressElement>("progress");
    progress.hidden = arrived === total;
    progress.max = total;
    progress.value = arrived;
    const [now, all] = [arrived, total].map((bytes) => (bytes / 1e6).toFixed(0));
    say(arrived < total ? `Loading the model: ${now} of ${all} MB.` : "Preparing the model.");
  },
  onReady(ready) {
    machine = ready;
    find("machine").textContent = describe(ready);
    if (drafts.length) say("Making drafts.");
    else say("Ready.");
  },
  onSound(recipe, waveform, seconds) {
    sounds.set(JSON.stringify(recipe), waveform);
    document.body.dataset.seconds = seconds.toFixed(3);
    showDrafts();
    if (recipe === picked) {
      showPicked();
      play();
    }
    const made = drafts.filter(soundOf).length;
    say(made < drafts.length ? `${made} of ${drafts.length} drafts are ready.` : "Ready.");
  },
  onDone(isCut) {
    if (isCut) warn("The description is longer than the model reads; its end is ignored.");
  },
  onFailure(message) {
    find("progress").hidden = true;
    say("");
    warn(message);
  },
});

function describe({ device, threads, isKept }: Machine): string {
  const how = device === "WebGPU" ? "the graphics card" : `${threads} thread${threads === 1 ? "" : "s"}`;
  const slow = crossOriginIsolated
    ? ""
    : " Browsers allow more threads to pages that the server isolates; a reload may be enough.";
  const kept = isKept
    ? "The model is kept in this browser, and the page works offline."
    : "This browser has no room for the model, so it is downloaded at each visit.";
  return `Runs on ${how}.${slow} ${kept}`;
}

function ask(event: Event): void {
  event.preventDefault();
  const first: Recipe = {
    prompt: field("prompt").value.trim().replace(/\s+/g, " "),
    noise: { seed: field("seed").valueAsNumber },
    duration: field("duration").valueAsNumber,
    steps: 1,
    omega: field("omega").valueAsNumber,
    loop: false,
  };
  const problem = problemOf(first);
  warn(problem ?? "");
  if (problem) return;
  player.stop();
  sounds.clear();
  picked = null;
  drafts = Array.from({ length: DRAFTS }, (_, i) => ({ ...first, noise: { seed: first.noise.seed + i } }));
  showDrafts();
  showPicked();
  if (machine) say("Making drafts.");
  client.make(drafts);
}

function showDrafts(): void {
  for (const [i, button] of Array.from(find("drafts").children).entries()) {
    const recipe = drafts[i];
    const waveform = soundOf(recipe);
    const isPicked = picked !== null && picked.noise.seed === recipe?.noise.seed;
    button.toggleAttribute("disabled", !waveform);
    button.setAttribute("aria-pressed", String(isPicked));
    const canvas = button.querySelector("canvas")!;
    if (waveform) drawWaveform(canvas, waveform);
    else canvas.getContext("2d")!.clearRect(0, 0, canvas.width, canvas.height);
  }
}

/** Pick a draft and play it. */
function pick(index: number): void {
  if (!soundOf(drafts[index])) return;
  change({ ...drafts[index] });
}

/** Make the picked sound another way, or take it from those that are made. */
function change(recipe: Recipe): void {
  picked = recipe;
  player.stop();
  showDrafts();
  showPicked();
  if (soundOf(picked)) return play();
  say(recipe.loop ? "Making the loop." : `Refining in ${recipe.steps} steps.`);
  // Drafts that are not made yet follow.
  client.make([picked, ...drafts.filter((draft) => !soundOf(draft))]);
}

function showPicked(): void {
  find("picked").hidden = picked === null;
  if (!picked) return;
  const { prompt, noise, steps, loop } = picked;
  find("about").textContent = `${prompt}, seed ${noise.seed}, ${steps} step${steps === 1 ? "" : "s"}${loop ? ", loop" : ""}`;
  field("loop").checked = loop;
  for (const radio of find("steps").querySelectorAll("input")) radio.checked = Number(radio.value) === steps;
  const waveform = soundOf(picked);
  for (const id of ["play", "save"]) find(id).toggleAttribute("disabled", !waveform);
  if (!waveform || !machine) return;
  const allowed = allowedGain(waveform, gain);
  find("level").textContent = `${allowed.toFixed(1)} dB${allowed < gain ? ", at its peak" : ""}`;
  drawWaveform(find<HTMLCanvasElement>("picture"), finish(waveform, picked, gain, machine.samplingRate));
}

function play(): void {
  const waveform = soundOf(picked);
  if (!picked || !waveform || !machine) return;
  player.play(finish(waveform, picked, gain, machine.samplingRate), machine.samplingRate, picked.loop);
}

function save(): void {
  const waveform = soundOf(picked);
  if (!picked || !waveform || !machine) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(soundFile(waveform, picked, gain, machine.samplingRate, machine.model));
  link.download = fileName(picked);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`Saved as ${link.download}.`);
}

function onKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input:not([type=radio], [type=checkbox])")) return;
  const digit = Number(event.key);
  if (digit >= 1 && digit <= DRAFTS) pick(digit - 1);
  // On a button or a checkbox, the space bar has its own meaning.
  if (event.key === " " && picked && !target.matches("button, input, summary")) {
    event.preventDefault();
    find("play").click();
  }
}

function build(): void {
  for (let n = 1; n <= DRAFTS; n++) {
    const button = document.createElement("button");
    button.type = "button";
    button.disabled = true;
    button.setAttribute("aria-label", `Draft ${n}`);
    button.setAttribute("aria-keyshortcuts", String(n));
    button.append(String(n), document.createElement("canvas"));
    button.onclick = () => pick(n - 1);
    find("drafts").append(button);
  }
  for (const steps of STEPS) {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "steps", value: String(steps) });
    radio.onchange = () => picked && change({ ...picked, steps });
    label.append(radio, String(steps));
    find("steps").append(label);
  }
  find("ask").onsubmit = ask;
  find("play").onclick = () => (player.isPlaying ? player.stop() : play());
  find("save").onclick = save;
  field("loop").onchange = () => picked && change({ ...picked, loop: field("loop").checked });
  field("gain").oninput = () => {
    gain = field("gain").valueAsNumber;
    showPicked();
  };
  field("gain").onchange = () => player.isPlaying && play();
  player.onChange = () => (find("play").textContent = player.isPlaying ? "Stop" : "Play");
  document.onkeydown = onKey;
  window.onresize = () => {
    showDrafts();
    showPicked();
  };
  matchMedia("(prefers-color-scheme: dark)").onchange = window.onresize as () => void;
  // A page that is not secure has no service worker.
  void navigator.serviceWorker?.register("service_worker.js");
}

build();
