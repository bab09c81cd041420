/** WAV files with the settings that made them, as diffusers_soundctm writes and reads them. */

import type { Bytes, Floats } from "./arrays.ts";

// In bytes. libsndfile stops reading a file's tags at the first one beyond 2045.
export const LONGEST_TAG = 2000;

export interface Tags {
  title: string;
  software: string;
  comment: string;
}

/**
 * Encode a waveform as 16-bit mono WAV.
 *
 * @param waveform Samples within ±1.
 * @param isLoop Whether to add one loop over all samples, which samplers and game engines read.
 */
export function encodeWav(waveform: Floats, samplingRate: number, tags: Tags, isLoop: boolean): Bytes {
  const chunks = [
    chunk("fmt ", fields([1, 1], [samplingRate, 2 * samplingRate], [2, 16])),
    chunk("LIST", infoOf(tags)),
    chunk("data", new Uint8Array(Int16Array.from(waveform, (value) => Math.round(value * 32767)).buffer)),
  ];
  if (isLoop) chunks.push(chunk("smpl", loopPoints(waveform.length, samplingRate)));
  return chunk("RIFF", concat([ascii("WAVE"), ...chunks]));
}

function infoOf({ title, software, comment }: Tags): Bytes {
  const texts = [["INAM", title], ["ISFT", software], ["ICMT", comment]];
  return concat([ascii("INFO"), ...texts.map(([name, text]) => chunk(name, concat([cut(text), new Uint8Array(1)])))]);
}

function loopPoints(samples: number, samplingRate: number): Bytes {
  const [middleC, first, forever] = [60, 0, 0];
  const values = [0, 0, Math.round(1e9 / samplingRate), middleC, 0, 0, 0, 1, 0, 0, 0, first, samples - 1, 0, forever];
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** UTF-8 of a text, cut to what libsndfile reads without splitting a character. */
function cut(text: string): Bytes {
  const bytes = new Uint8Array(LONGEST_TAG);
  const { written } = new TextEncoder().encodeInto(text, bytes);
  return bytes.subarray(0, written);
}

function fields(shorts: number[], longs: number[], lastShorts: number[]): Bytes {
  const parts = [Uint16Array.from(shorts), Uint32Array.from(longs), Uint16Array.from(lastShorts)];
  return concat(parts.map((part) => new Uint8Array(part.buffer)));
}

/** A RIFF chunk: name, length, content, and a zero if the length is odd. */
function chunk(name: string, content: Bytes): Bytes {
  const length = new Uint8Array(Uint32Array.of(content.length).buffer);
  return concat([ascii(name), length, content, new Uint8Array(content.length % 2)]);
}

function ascii(text: string): Bytes {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

function concat(parts: Bytes[]): Bytes {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
