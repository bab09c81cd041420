import type { Floats } from "./arrays.ts";

/** Draw a waveform on a canvas, in the canvas's text color: one bar per pixel from the lowest to the highest sample. */
export function drawWaveform(canvas: HTMLCanvasElement, waveform: Floats): void {
  const scale = globalThis.devicePixelRatio || 1;
  canvas.width = Math.max(Math.round(canvas.clientWidth * scale), 1);
  canvas.height = Math.max(Math.round(canvas.clientHeight * scale), 1);
  const { width, height } = canvas;
  const context = canvas.getContext("2d")!;
  context.fillStyle = getComputedStyle(canvas).color;
  const perPixel = waveform.length / width;
  for (let x = 0; x < width; x++) {
    const part = waveform.subarray(Math.floor(x * perPixel), Math.max(Math.ceil((x + 1) * perPixel), 1));
    const [low, high] = part.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [0, 0]);
    context.fillRect(x, ((1 - high) * height) / 2, 1, Math.max(((high - low) * height) / 2, 1));
  }
}
