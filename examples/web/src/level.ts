/** Levels and edges of waveforms, as the Python app leaves them. */

import type { Floats } from "./arrays.ts";

export const HEADROOM_DB = 1;
const FADE_IN_S = 0.005;

export const toGain = (db: number): number => 10 ** (db / 20);

export function peakOf(waveform: Floats): number {
  return waveform.reduce((peak, value) => Math.max(peak, Math.abs(value)), 0);
}

/** The gain in dB that a sound gets when `wanted` is asked for: its peak stays 1 dB below full scale. */
export function allowedGain(waveform: Floats, wanted: number): number {
  const highest = -HEADROOM_DB - 20 * Math.log10(Math.max(peakOf(waveform), 1e-9));
  return Math.min(wanted, highest);
}

/** Fade the first and the last 5 ms, so that the edges do not click. */
export function fadeEdges(waveform: Floats, samplingRate: number): Floats {
  const length = Math.min(Math.round(FADE_IN_S * samplingRate), Math.floor(waveform.length / 2));
  return waveform.map((value, i) => {
    const distance = Math.min(i, waveform.length - 1 - i);
    return distance < length ? value * Math.sin((Math.PI * distance) / (2 * length)) ** 2 : value;
  });
}
