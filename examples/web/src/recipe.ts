/** Everything that determines a sound, given the model, under the names that the Python app uses. */

export interface Recipe {
  prompt: string;
  noise: { seed: number };
  /** In seconds. */
  duration: number;
  steps: number;
  /** Strength of the prompt. */
  omega: number;
  loop: boolean;
}

export const MAX_PROMPT = 300; // characters
export const MAX_SEED = 2 ** 53 - 1;
export const DURATION = [0.5, 30]; // seconds
export const STEPS = [1, 2, 4, 8, 16];
export const DRAFTS = 8;

/** What is wrong with the values of the form, as a sentence for the person at the screen, or null. */
export function problemOf({ prompt, noise, duration, omega }: Recipe): string | null {
  const length = Array.from(prompt).length;
  if (length === 0) return "Describe a sound first, for example: rain on a tin roof.";
  if (length > MAX_PROMPT) return `The description has ${length} characters; shorten it to ${MAX_PROMPT}.`;
  if (!Number.isInteger(noise.seed) || noise.seed < 0 || noise.seed > MAX_SEED - DRAFTS) {
    return "The first seed must be a whole number from 0 up.";
  }
  if (!(duration >= DURATION[0] && duration <= DURATION[1])) {
    return `The length must be ${DURATION[0]} to ${DURATION[1]} seconds.`;
  }
  if (!(omega >= 0 && omega <= 20)) return "The prompt strength must be 0 to 20.";
  return null;
}

/** The name of a sound's file: words of the prompt, seed and steps. */
export function fileName({ prompt, noise, steps, loop }: Recipe): string {
  const words = prompt.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40).replace(/-$/, "");
  return `${words || "sound"}-${noise.seed}-${steps}${loop ? "-loop" : ""}.wav`;
}
