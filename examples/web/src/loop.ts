/** Sounds that loop without a seam, as `CircularTime` and `decode_loop` of diffusers_soundctm.control make them. */

import type { Floats } from "./arrays.ts";

export const GOLDEN_SECTION = (Math.sqrt(5) - 1) / 2;
const FADE_IN_S = 0.05;
const MARGIN_IN_S = 0.16; // decoded beyond each end, where decoders depend on neighbors

/** Shift latents [channels, time, width] by `shift` positions in time; what leaves at one end enters at the other. */
export function roll(latents: Floats, [channels, time, width]: number[], shift: number): Floats {
  const rolled = new Float32Array(latents.length);
  for (let channel = 0; channel < channels; channel++) {
    for (let t = 0; t < time; t++) {
      const to = (((t + shift) % time) + time) % time;
      const from = (channel * time + t) * width;
      rolled.set(latents.subarray(from, from + width), (channel * time + to) * width);
    }
  }
  return rolled;
}

/** How many positions of latents are repeated beyond each end, given the samples per position. */
export function marginOf(time: number, position: number, samplingRate: number): number {
  return Math.min(Math.ceil((MARGIN_IN_S * samplingRate) / position), time);
}

/** Continue latents [channels, time, width] around the circle, by `margin` positions at each end. */
export function continueAround(latents: Floats, [channels, time, width]: number[], margin: number): Floats {
  const length = time + 2 * margin;
  const around = new Float32Array(channels * length * width);
  for (let channel = 0; channel < channels; channel++) {
    for (let t = 0; t < length; t++) {
      const from = (channel * time + ((t - margin + time) % time)) * width;
      around.set(latents.subarray(from, from + width), (channel * length + t) * width);
    }
  }
  return around;
}

/**
 * Cut the loop out of a decoded waveform, and crossfade its start with what follows its end.
 *
 * @param waveform What `continueAround` decodes to.
 * @param start First sample of the loop.
 * @param end Sample after its last.
 */
export function closeLoop(waveform: Floats, start: number, end: number, samplingRate: number): Floats {
  const loop = waveform.slice(start, end);
  const fade = Math.min(Math.round(FADE_IN_S * samplingRate), start, end - start);
  loop.set(crossfade(waveform.subarray(end, end + fade), loop.slice(0, fade)));
  return loop;
}

/** Crossfade two waveforms at constant power, whatever their correlation. */
function crossfade(first: Floats, second: Floats): Floats {
  const dot = (a: Floats, b: Floats) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const energy = Math.sqrt(dot(first, first) * dot(second, second));
  // Waveforms that cancel each other cannot be scaled to their level.
  const correlation = Math.max(dot(first, second) / Math.max(energy, 1e-12), -0.5);
  return first.map((value, i) => {
    const angle = ((Math.PI / 2) * i) / Math.max(first.length - 1, 1);
    const sum = Math.cos(angle) * value + Math.sin(angle) * second[i];
    return sum / Math.sqrt(1 + correlation * Math.sin(2 * angle));
  });
}
