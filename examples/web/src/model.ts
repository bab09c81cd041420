/** The exported model: from a recipe to a waveform. */

import type { InferenceSession, Tensor } from "onnxruntime-web";

import type { Floats } from "./arrays.ts";
import { closeLoop, continueAround, marginOf } from "./loop.ts";
import { TorchGenerator } from "./noise.ts";
import type { Recipe } from "./recipe.ts";
import { type Levels, sample } from "./sampler.ts";
import { Tokenizer, type TokenizerFile } from "./tokenizer.ts";

const FORMAT = 1;

/** What `soundctm.json` says about an exported model, as far as it is used here. */
export interface Description extends Levels {
  format: number;
  sampling_rate: number;
  num_channels: number;
  hop_length: number;
  frames_per_position: number;
  time_multiple: number;
  latent_channels: number;
  latent_width: number | null;
  max_tokens: number;
  has_attention_mask: boolean;
}

export type Runtime = typeof import("onnxruntime-web");
export type Part = "text_encoder" | "denoiser" | "decoder" | "vocoder";
export const PARTS: Part[] = ["text_encoder", "denoiser", "decoder", "vocoder"];
export type Sessions = Record<Part, InferenceSession>;

/** What is wrong with a model for this page, as a sentence, or null. */
export function problemOfModel(description: Description): string | null {
  if (description.format !== FORMAT) {
    return (
      `The model folder has format ${description.format}, and this page reads format ${FORMAT}: ` +
      "build the page and export the model with the same version of diffusers-soundctm."
    );
  }
  if (description.latent_width === null || description.num_channels !== 1 || !description.has_attention_mask) {
    return "This page runs models like the embedded one; the model in the folder is of another kind.";
  }
  return null;
}

/** The embeddings of a prompt. */
interface Condition {
  prompt_embeds: Tensor;
  attention_mask: Tensor;
}

export class Model {
  readonly description: Description;
  private readonly runtime: Runtime;
  private readonly sessions: Sessions;
  private readonly tokenizer: Tokenizer;
  private prompt: string | null = null; // whose `condition` is kept
  private condition!: Condition;

  constructor(runtime: Runtime, description: Description, tokenizer: TokenizerFile, sessions: Sessions) {
    this.runtime = runtime;
    this.description = description;
    this.sessions = sessions;
    this.tokenizer = new Tokenizer(tokenizer, description.max_tokens);
  }

  /** Whether the text encoder reads the start of a prompt only. */
  isTooLong(prompt: string): boolean {
    return this.tokenizer.encode(prompt).isCut;
  }

  /** Make a waveform within ±1. */
  async make(recipe: Recipe): Promise<Floats> {
    const { latent_channels: channels, latent_width: width, time_multiple, sampling_rate } = this.description;
    const position = this.description.hop_length * this.description.frames_per_position; // samples of one
    const samples = Math.round(recipe.duration * sampling_rate);
    const time = Math.ceil(samples / position / time_multiple) * time_multiple;
    const shape = [channels, time, width!];
    const condition = await this.encode(recipe.prompt);
    const noise = new TorchGenerator(recipe.noise.seed).randn(channels * time * width!);
    const denoise = (latents: Floats, sigma: number, target: number) =>
      this.denoise(latents, shape, sigma, target, recipe.omega, condition);
    const latents = await sample(noise, shape, recipe.steps, this.description, denoise, recipe.loop);
    if (!recipe.loop) return (await this.decode(latents, shape)).slice(0, samples);
    let margin = marginOf(time, position, sampling_rate);
    while ((time + 2 * margin) % time_multiple) margin++;
    const around = continueAround(latents, shape, margin);
    const waveform = await this.decode(around, [channels, time + 2 * margin, width!]);
    return closeLoop(waveform, margin * position, (margin + time) * position, sampling_rate);
  }

  private async encode(prompt: string): Promise<Condition> {
    if (prompt === this.prompt) return this.condition;
    const { ids } = this.tokenizer.encode(prompt);
    const shape = [1, ids.length];
    const integers = (values: number[]) => new this.runtime.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
    const prompt_embeds = await this.run("text_encoder", {
      input_ids: integers(ids),
      attention_mask: integers(ids.map(() => 1)),
    });
    const attention_mask = new this.runtime.Tensor("bool", ids.map(() => true), shape);
    this.condition = { prompt_embeds, attention_mask };
    this.prompt = prompt;
    return this.condition;
  }

  private async denoise(
    latents: Floats,
    shape: number[],
    sigma: number,
    target: number,
    omega: number,
    condition: Condition,
  ): Promise<Floats> {
    const denoised = await this.run("denoiser", {
      latents: this.floats(latents, [1, ...shape]),
      sigma: this.floats([sigma], [1]),
      target_sigma: this.floats([target], [1]),
      guidance_scale: this.floats([omega], [1]),
      ...condition,
    });
    return denoised.data as Floats;
  }

  private async decode(latents: Floats, shape: number[]): Promise<Floats> {
    const mel = await this.run("decoder", { latents: this.floats(latents, [1, ...shape]) });
    return (await this.run("vocoder", { mel })).data as Floats;
  }

  /** Run a part, which has one output. */
  private async run(part: Part, inputs: Record<string, Tensor>): Promise<Tensor> {
    const session = this.sessions[part];
    return (await session.run(inputs))[session.outputNames[0]];
  }

  private floats(values: ArrayLike<number>, shape: number[]): Tensor {
    return new this.runtime.Tensor("float32", Float32Array.from(values), shape);
  }
}
