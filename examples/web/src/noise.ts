/** The noise of torch's CPU generator, so that a seed gives the same sound here as in Python. */

import type { Floats } from "./arrays.ts";

const STATE = 624;
const SHIFT = 397;
const BLOCK = 16;

/** MT19937, seeded as `torch.Generator().manual_seed(seed)` seeds it. */
class MersenneTwister {
  private readonly state = new Uint32Array(STATE);
  private index = STATE;

  constructor(seed: number) {
    // torch keeps the low 32 bits of the seed. `%` is exact for integers up to 2^53, where `>>> 0` is not.
    this.state[0] = seed % 2 ** 32;
    for (let i = 1; i < STATE; i++) {
      const previous = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, previous) + i;
    }
  }

  /** The next 32 random bits, as an unsigned integer. */
  next(): number {
    if (this.index === STATE) this.twist();
    let bits = this.state[this.index++];
    bits ^= bits >>> 11;
    bits ^= (bits << 7) & 0x9d2c5680;
    bits ^= (bits << 15) & 0xefc60000;
    return (bits ^ (bits >>> 18)) >>> 0;
  }

  private twist(): void {
    const { state } = this;
    for (let i = 0; i < STATE; i++) {
      const mixed = (state[i] & 0x80000000) | (state[(i + 1) % STATE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % STATE] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
    }
    this.index = 0;
  }
}

/** Draws standard normal numbers as `torch.randn(count, generator=generator)` does on the CPU in float32. */
export class TorchGenerator {
  private readonly bits: MersenneTwister;
  private spare: number | null = null; // the second number of the last pair, which torch keeps for the next call

  /** @param seed An integer from 0 to 2^53 − 1. */
  constructor(seed: number) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new RangeError(`The seed is ${seed}; choose a whole number from 0 to ${Number.MAX_SAFE_INTEGER}.`);
    }
    this.bits = new MersenneTwister(seed);
  }

  randn(count: number): Floats {
    const values = new Float32Array(count);
    if (count < BLOCK) return values.map(() => this.normal());
    this.fillUniform(values);
    for (let i = 0; i + BLOCK <= count; i += BLOCK) boxMuller(values.subarray(i, i + BLOCK));
    if (count % BLOCK) {
      // torch draws the last 16 anew, some of them for the second time.
      const last = values.subarray(count - BLOCK);
      this.fillUniform(last);
      boxMuller(last);
    }
    return values;
  }

  private fillUniform(values: Floats): void {
    for (let i = 0; i < values.length; i++) values[i] = (this.bits.next() & 0xffffff) / 2 ** 24;
  }

  /** One number in double precision, which is how torch draws fewer than 16. */
  private normal(): number {
    if (this.spare !== null) {
      const spare = this.spare;
      this.spare = null;
      return spare;
    }
    const angle = 2 * Math.PI * this.uniform();
    const radius = Math.sqrt(-2 * Math.log1p(-this.uniform()));
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  private uniform(): number {
    const high = this.bits.next() & 0x1fffff; // 53 bits in all
    return (high * 2 ** 32 + this.bits.next()) / 2 ** 53;
  }
}

/** Turn 16 uniform numbers in [0, 1) into normal ones, in place: eight radii, then eight angles. */
function boxMuller(block: Floats): void {
  const half = BLOCK / 2;
  for (let i = 0; i < half; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[i]));
    const angle = 2 * Math.PI * block[i + half];
    block[i] = radius * Math.cos(angle);
    block[i + half] = radius * Math.sin(angle);
  }
}
