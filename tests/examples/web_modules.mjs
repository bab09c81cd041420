// Runs the modules of examples/web on the values of standard input, for tests/examples/test_web_modules.py.
import { readFileSync } from "node:fs";

const { noise, tokenizer, prompts, maxTokens, sampler, loop, sound } = JSON.parse(readFileSync(0, "utf8"));
const load = (name) => import(new URL(`../../examples/web/src/${name}.ts`, import.meta.url).href);
const [{ TorchGenerator }, { Tokenizer }, { sample }, loops, { soundFile }] = await Promise.all(
  ["noise", "tokenizer", "sampler", "loop", "sound_file"].map(load),
);

const draw = ({ seed, counts }) => {
  const generator = new TorchGenerator(seed);
  return counts.map((count) => Array.from(generator.randn(count)));
};

const encoder = new Tokenizer(JSON.parse(readFileSync(tokenizer, "utf8")), maxTokens);

// A stand-in for the network, which depends on everything that it gets.
const denoise = async (latents, sigma, target) =>
  latents.map((value, i) => 0.3 * value + 0.01 * sigma - target + Math.sin(i));
const jump = ({ noise, shape, steps, levels, isLoop }) =>
  sample(Float32Array.from(noise), shape, steps, levels, denoise, isLoop);

const { waveform, recipe, gain, samplingRate, model } = sound;
const file = soundFile(Float32Array.from(waveform), recipe, gain, samplingRate, model);

const results = {
  noise: noise.map(draw),
  tokens: prompts.map((prompt) => encoder.encode(prompt)),
  latents: (await Promise.all(sampler.map(jump))).map((latents) => Array.from(latents)),
  around: Array.from(loops.continueAround(Float32Array.from(loop.latents), loop.shape, loop.margin)),
  loop: Array.from(loops.closeLoop(Float32Array.from(loop.waveform), loop.start, loop.end, loop.samplingRate)),
  wav: Buffer.from(await file.arrayBuffer()).toString("base64"),
};
console.log(JSON.stringify(results));
