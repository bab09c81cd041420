/** A sound as it is heard and saved. */

import type { Bytes, Floats } from "./arrays.ts";
import { allowedGain, fadeEdges, toGain } from "./level.ts";
import type { Recipe } from "./recipe.ts";
import { encodeWav } from "./wav.ts";

/** The waveform at a gain in dB, with 1 dB of headroom, and without clicks at its edges unless it is a loop. */
export function finish(waveform: Floats, recipe: Recipe, gain: number, samplingRate: number): Floats {
  const scale = toGain(allowedGain(waveform, gain));
  const scaled = waveform.map((value) => value * scale);
  return (recipe.loop ? scaled : fadeEdges(scaled, samplingRate)) as Floats;
}

/** A WAV file whose comment holds what the Python app and the command line read to make the sound again. */
export function soundFile(waveform: Floats, recipe: Recipe, gain: number, samplingRate: number, model: string): Blob {
  const comment = JSON.stringify({ model, dtype: "float32", recipe, gain_db: allowedGain(waveform, gain) });
  const tags = { title: recipe.prompt, software: "diffusers-soundctm in the browser", comment };
  const file = encodeWav(finish(waveform, recipe, gain, samplingRate), samplingRate, tags, recipe.loop);
  return new Blob([file as Bytes], { type: "audio/wav" });
}
