"""What an adapter has learned: nearness to held-out recordings, recognition of the new and the other kinds, memory.

Embeddings are kept under --output, so that an interrupted run resumes and adapters of one set share what is the base
model's. `recordings` writes the 20 recordings to learn, `measure` prints the table of an adapter.

    python benchmarks/learn.py recordings words --output runs/words
    soundctm learn runs/words --name "a child's word game" -o runs/words-student
    python benchmarks/learn.py measure words --adapter runs/words-student --dataset data --cache runs/embeddings
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from common import SAMPLING_RATE, digest, print_command, print_table, real_embeddings, save_arrays, single_sounds
from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.audio import write_audio
from diffusers_soundctm.data import to_int16
from diffusers_soundctm.data.material import trim
from diffusers_soundctm.evaluation import LinearProbe, fraction_interval, kernel_distance, load_embedding
from learning_sets import CAPTIONS, LEARNED, waveforms

HELD_OUT = 60
NUM_SAMPLES = 81920


class Measurer:
    """Embeds recordings, and sounds of the model with and without an adapter."""

    def __init__(self, adapter: Path, output: Path):
        self.pipe = SoundCTMPipeline.from_embedded()
        self.pipe.set_progress_bar_config(disable=True)
        self.base = digest(self.pipe.denoiser)
        self.pipe.load_lora_weights(adapter, adapter_name="learned")
        self.adapted = digest(self.pipe.denoiser)
        self.embedding, self.output = load_embedding(), output

    def kept(self, name: str, make) -> np.ndarray:
        """Embeddings that `make` returns, or those of an earlier run."""
        path = self.output / f"{name}.npz"
        if not path.exists():
            save_arrays(path, embeddings=make())
        return np.load(path)["embeddings"]

    def recordings(self, sounds: list[np.ndarray]) -> np.ndarray:
        """Embeddings of recordings as they are learned: trimmed, and cut or padded to 5.12 s."""
        clips = [to_int16(trim(sound, SAMPLING_RATE)[:NUM_SAMPLES], NUM_SAMPLES) for sound in sounds]
        return self.embedding.embed(np.stack(clips).astype(np.float32) / 32767, SAMPLING_RATE)

    @torch.inference_mode()
    def generated(self, prompts: list[str], steps: int, adapted: bool) -> np.ndarray:
        """Embeddings of a sound per prompt; its seed is its number."""
        self.pipe.enable_lora() if adapted else self.pipe.disable_lora()
        found = []
        for seed, prompt in enumerate(prompts):
            generator = torch.Generator().manual_seed(seed)
            audio = self.pipe(prompt, num_inference_steps=steps, generator=generator).audios[0]
            found.append(self.embedding.embed(np.asarray(audio)[:1], SAMPLING_RATE))
        return np.concatenate(found)

    def sounds(self, name: str, prompts: list[str], steps: int, adapted: bool) -> np.ndarray:
        """`generated`, kept by the weights."""
        key = f"{name}-{steps}-{len(prompts)}-{(self.adapted if adapted else self.base)[:12]}"
        return self.kept(key, lambda: self.generated(prompts, steps, adapted))


def unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def share(hits: np.ndarray) -> str:
    low, high = fraction_interval(hits)
    return f"{hits.mean():.0%} [{low:.0%}, {high:.0%}]"


def measure(args: argparse.Namespace) -> None:
    measurer, caption = Measurer(args.adapter, args.output), CAPTIONS[args.kind]
    sounds = waveforms(args.kind, HELD_OUT)
    learned = measurer.kept(f"{args.kind}-learned", lambda: measurer.recordings(sounds[:LEARNED]))
    held_out = measurer.kept(f"{args.kind}-held-out", lambda: measurer.recordings(sounds[LEARNED:]))
    known, labels, _ = real_embeddings(args.dataset, "train", args.cache, args.train_clips)
    known, labels = single_sounds(known, labels)
    new = LinearProbe.fit(np.concatenate([known, held_out]), ["other"] * len(known) + ["new"] * len(held_out))
    kinds = LinearProbe.fit(known, list(labels))
    others = [kind for kind in kinds.classes if kind in measurer.pipe.known_sounds.kinds][: args.others]
    print_command()
    rows, distances = [], {}
    for adapted in (False, True):
        for steps in (1, 4):
            made = measurer.sounds(args.kind, [caption] * args.num, steps, adapted)
            distance = kernel_distance(made, held_out)
            distances[adapted, steps] = distance.value
            row = ["adapted" if adapted else "base", steps, f"{distance.value:.3g}"]
            row += [f"{distance.value / distances[False, steps]:.2f}"]
            row += [share(np.asarray(new.predict(made)[:, 0] == "new"))]
            near = [(unit(made) @ unit(real).T).max(axis=1).mean() for real in (learned, held_out)]
            row += [f"{near[0]:.3f} / {near[1]:.3f}"]
            if steps == 1 and not others:
                row += ["not measured"]
            elif steps == 1:
                heard = measurer.sounds("others", others, steps, adapted)
                row += [share(np.asarray(kinds.predict(heard)[:, 0] == np.array(others)))]
            else:
                one = measurer.sounds(args.kind, [caption] * args.num, 1, adapted)
                row += [f"cosine of 1 and 4 steps {(unit(one) * unit(made)).sum(axis=1).mean():.3f}"]
            rows.append(row)
    print_table(
        [
            "model",
            "steps",
            "kernel distance",
            "÷ base",
            "heard as new",
            "nearest learned / held out",
            "others recognized",
        ],
        rows,
    )
    print(json.dumps({"n": args.num, "held out": len(held_out), "other kinds": len(others)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["recordings", "measure"], help="what to do")
    parser.add_argument("kind", choices=list(CAPTIONS), help="kind of the recordings")
    parser.add_argument("--adapter", type=Path, help="folder of the adapter to measure")
    parser.add_argument("--dataset", help="data set with a split train and a column label: the other kinds")
    parser.add_argument("--cache", type=Path, help="folder that keeps the data set's embeddings")
    parser.add_argument("--train-clips", type=int, help="first so many clips of the data set only (all)")
    parser.add_argument("--others", type=int, help="number of other kinds, one sound each (default: all)")
    parser.add_argument("--num", type=int, default=48, help="sounds per setting (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the recordings or the embeddings")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.action == "measure":
        measure(args)
        return
    for number, sound in enumerate(waveforms(args.kind, 0)):
        path = args.output / f"{args.kind}-{number:02d}.wav"
        write_audio(path, torch.from_numpy(np.ascontiguousarray(sound))[None], SAMPLING_RATE)


if __name__ == "__main__":
    main()
