/** The worker, as the page uses it. */

import type { Floats } from "./arrays.ts";
import type { Machine, Reply } from "./messages.ts";
import type { Recipe } from "./recipe.ts";

export interface Listener {
  onProgress(arrived: number, total: number): void;
  onReady(machine: Machine): void;
  onSound(recipe: Recipe, waveform: Floats, seconds: number): void;
  onDone(isCut: boolean): void;
  onFailure(message: string): void;
}

export class Client {
  private readonly worker: Worker;
  private readonly listener: Listener;
  private recipes: Recipe[] = [];
  private request = 0;

  constructor(script: URL, listener: Listener) {
    this.listener = listener;
    this.worker = new Worker(script, { type: "module" });
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => this.receive(data);
    this.worker.onerror = () => listener.onFailure("The page could not start; reload it, or use a newer browser.");
  }

  /** Make these sounds in place of those that are not finished. */
  make(recipes: Recipe[]): void {
    this.recipes = recipes;
    this.worker.postMessage({ request: ++this.request, recipes });
  }

  private receive(reply: Reply): void {
    if ("request" in reply && reply.request !== undefined && reply.request !== this.request) return; // superseded
    if (reply.kind === "progress") this.listener.onProgress(reply.arrived, reply.total);
    if (reply.kind === "ready") this.listener.onReady(reply.machine);
    if (reply.kind === "sound") this.listener.onSound(this.recipes[reply.index], reply.waveform, reply.seconds);
    if (reply.kind === "done") this.listener.onDone(reply.isCut);
    if (reply.kind === "failure") this.listener.onFailure(reply.message);
  }
}
