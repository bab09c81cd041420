/** Jumps along the trajectory, as `CTMScheduler` takes them at gamma 0. Latents are (1, channels, time, width). */

import type { Floats } from "./arrays.ts";
import { GOLDEN_SECTION, roll } from "./loop.ts";

/** Noise levels of a model, from `soundctm.json`. */
export interface Levels {
  sigma_min: number;
  sigma_max: number;
  rho: number;
}

/** The estimate g of the clean latents from latents at level t, for a jump to level s. */
export type Denoiser = (latents: Floats, sigma: number, target: number) => Promise<Floats>;

/** n + 1 decreasing noise levels of Karras et al. (arXiv 2206.00364). */
export function karrasSigmas(steps: number, { sigma_min, sigma_max, rho }: Levels): number[] {
  const [start, end] = [sigma_max ** (1 / rho), sigma_min ** (1 / rho)];
  return Array.from({ length: steps + 1 }, (_, i) => Math.fround((start + (i / steps) * (end - start)) ** rho));
}

/**
 * Sample latents from noise of unit variance.
 *
 * @param noise The starting noise.
 * @param shape [channels, time, width] of the noise.
 * @param steps Number of jumps.
 * @param isLoop Whether time is a circle that every step cuts open elsewhere, as `CircularTime` does.
 */
export async function sample(
  noise: Floats,
  shape: number[],
  steps: number,
  levels: Levels,
  denoise: Denoiser,
  isLoop = false,
): Promise<Floats> {
  const sigmas = karrasSigmas(steps, levels);
  let latents = noise.map((value) => value * sigmas[0]);
  for (let i = 0; i < steps; i++) {
    const [sigma, target] = [sigmas[i], sigmas[i + 1]];
    const clean = await denoise(latents, sigma, target);
    const ratio = target / sigma;
    latents = latents.map((value, k) => ratio * value + (1 - ratio) * clean[k]); // G = (s/t)·z + (1 − s/t)·g
    if (isLoop) {
      const cut = (step: number) => Math.round(shape[1] * ((step * GOLDEN_SECTION) % 1));
      latents = roll(latents, shape, cut(i) - cut((i + 1) % steps));
    }
  }
  return latents;
}
