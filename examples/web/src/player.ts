/** Plays one sound at a time. */

import type { Floats } from "./arrays.ts";

export class Player {
  /** Called when playing starts and when it ends. */
  onChange: () => void = () => {};
  private context: AudioContext | null = null;
  private source: AudioBufferSourceNode | null = null;

  get isPlaying(): boolean {
    return this.source !== null;
  }

  play(waveform: Floats, samplingRate: number, isLoop: boolean): void {
    this.stop();
    // Browsers allow audio from the first click or key on.
    this.context ??= new AudioContext();
    void this.context.resume();
    const buffer = this.context.createBuffer(1, waveform.length, samplingRate);
    buffer.copyToChannel(waveform, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.loop = isLoop;
    source.connect(this.context.destination);
    source.onended = () => this.source === source && this.stop();
    this.source = source;
    source.start();
    this.onChange();
  }

  stop(): void {
    const source = this.source;
    this.source = null;
    source?.stop();
    this.onChange();
  }
}
