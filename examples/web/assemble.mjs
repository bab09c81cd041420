// Puts the built page and an exported model into one folder, which any web server can serve.
// usage: node assemble.mjs MODEL OUTPUT [NAME]
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const NEEDED = ["soundctm.json", "tokenizer.json", "text_encoder.onnx", "denoiser.onnx", "decoder.onnx", "vocoder.onnx"];

function stop(message) {
  console.error(message);
  process.exit(2);
}

// The name goes into the files that visitors save, where the Python app and the command line read it.
const [model, output, name = "embedded", ...rest] = process.argv.slice(2);
if (!model || !output || rest.length) stop("usage: node assemble.mjs MODEL OUTPUT [NAME]");
if (!existsSync("dist/page.js")) stop("The page is not built; run `npm run build` first.");
const missing = NEEDED.filter((path) => !existsSync(join(model, path)));
if (missing.length) stop(`The model folder ${model} has no ${missing.join(", ")}; export it with \`soundctm export\`.`);
if (existsSync(output) && readdirSync(output).length) stop(`The folder ${output} is not empty; choose a new one.`);

/** A file as the page checks and keeps it. */
function entry(path) {
  const file = join(output, path);
  const sha256 = createHash("sha256").update(readFileSync(file)).digest("hex");
  return { path, bytes: statSync(file).size, sha256 };
}

mkdirSync(output, { recursive: true });
cpSync("dist", output, { recursive: true });
cpSync("README.md", join(output, "README.md"));
for (const path of NEEDED) cpSync(join(model, path), join(output, "model", path));
const entries = Object.fromEntries(NEEDED.map((path) => [path, entry(`model/${path}`)]));
writeFileSync(join(output, "files.json"), JSON.stringify({ name, model: entries }, null, 1));
