/** What the page and its worker tell each other. */

import type { Floats } from "./arrays.ts";
import type { Recipe } from "./recipe.ts";

/** Make these sounds, one after the other. A newer request supersedes unfinished ones. */
export interface Request {
  request: number;
  recipes: Recipe[];
}

export interface Machine {
  /** The model's name, as it is written to files. */
  model: string;
  samplingRate: number;
  device: "WebGPU" | "WebAssembly";
  threads: number;
  /** Bytes that came from the network. */
  downloaded: number;
  /** Whether the model is kept for the next visit. */
  isKept: boolean;
}

export type Reply =
  | { kind: "progress"; arrived: number; total: number }
  | { kind: "ready"; machine: Machine }
  | { kind: "sound"; request: number; index: number; waveform: Floats; seconds: number }
  | { kind: "done"; request: number; isCut: boolean }
  /** The model cannot be loaded, or a sound cannot be made (then with its request). */
  | { kind: "failure"; message: string; request?: number };
