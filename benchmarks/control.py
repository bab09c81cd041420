"""Training-free control, measured: intensity, bandwidth, holes, loops, variations, and what it all costs.

Prompts are wordings of the test split for a few classes of sustained sounds, the same noise for every method.

    python benchmarks/control.py --dataset data --cache runs/embeddings --output runs/control
"""

import argparse
import gc
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import print_command, print_table, real_embeddings, single_probe
from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.audio import log_mel
from diffusers_soundctm.control import (
    CircularTime,
    IntensityObjective,
    LoopObjective,
    LossGuidance,
    Sound,
    decode_loop,
    extend_bandwidth,
    inpaint,
    optimize_noise,
    vary,
)
from diffusers_soundctm.control.bandwidth import split_bands
from diffusers_soundctm.control.inpainting import mirror_fill
from diffusers_soundctm.control.seams import FADE_IN_S
from diffusers_soundctm.data import load_clips
from diffusers_soundctm.evaluation import kernel_distance, load_embedding
from diffusers_soundctm.evaluation.evaluate import write_json

LABELS = ("rain", "sea waves", "applause", "helicopter", "jackhammer", "chainsaw", "birds", "bagpipe")
LOUD, QUIET = -15.0, -40.0  # dB
CURVES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # of u in [0, 1] to [0, 1]
    "ramp up": lambda u: u,
    "ramp down": lambda u: 1 - u,
    "up, down": lambda u: 1 - (2 * u - 1).abs(),
    "down, up": lambda u: (2 * u - 1).abs(),
    "step up": lambda u: torch.sigmoid(20 * (u - 0.5)),
    "step down": lambda u: torch.sigmoid(20 * (0.5 - u)),
}
CUTOFF = 4000.0
HOLE = (2.0, 3.0)
SEAM_FRAMES = 11  # of 10 ms, that a discontinuity is averaged over: a fade and the windows on either side
FLOOR_DB = -80.0


@dataclass(frozen=True)
class Case:
    """One prompt."""

    label: str
    caption: str
    noise: torch.Tensor  # (seeds, C, time, width)
    clips: torch.Tensor  # (seeds, samples), real sounds of the label


class Bench:
    """The model, the prompts, and how sounds are heard."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        model = args.pipeline
        self.pipe = SoundCTMPipeline.from_pretrained(model) if model else SoundCTMPipeline.from_embedded()
        self.pipe.to(args.device).set_progress_bar_config(disable=True)
        self.num_samples = round(self.pipe.default_audio_length_in_s * self.pipe.sampling_rate)
        self.embedding = load_embedding()
        clips = load_clips(args.dataset, split="test", cache_dir=args.cache, num_samples=self.num_samples)
        self.cases = [self._case(label, clips) for label in args.labels]

    def _case(self, label: str, clips) -> Case:
        found = [i for i, name in enumerate(clips.labels) if name == label][: self.args.seeds]
        if len(found) < self.args.seeds:
            raise ValueError(f"The test split has {len(found)} clips of {label!r}; choose other --labels.")
        shape = self.pipe.latent_shape(self.num_samples)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(self.args.seeds)]
        real = torch.from_numpy(np.asarray(clips.waveforms[found], np.float32) / 32767)
        return Case(label, clips.captions[found[0]][0], torch.stack(noise), real)

    def sample(self, case: Case, latents: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        """Sounds (seeds, samples) of a prompt, or latents with `output_type`, in --steps from its noise."""
        latents = case.noise if latents is None else latents
        kwargs = {"num_inference_steps": self.args.steps, "output_type": "pt"} | kwargs
        audios = self.pipe([case.caption] * len(latents), latents=latents, **kwargs).audios
        return audios if kwargs["output_type"] == "latent" else audios[:, 0].cpu()

    def embed(self, waveforms: torch.Tensor) -> np.ndarray:
        return self.embedding.embed(waveforms.numpy(), self.pipe.sampling_rate)

    def probe(self):
        train, labels, _ = real_embeddings(self.args.dataset, "train", self.args.cache, self.args.train_clips)
        return single_probe(train, labels, self.args.cache)


def intensity(bench: Bench) -> dict:
    """Loudness curves: mean absolute error in dB of the waveform's short-time level, and is the sound still heard?"""
    probe = bench.probe()
    sounds: dict[str, list] = {}
    measured: dict[str, dict[str, list]] = {}
    for case in tqdm(bench.cases, desc="intensity"):
        plain = bench.sample(case)
        for name, shape in CURVES.items():
            curve = QUIET + (LOUD - QUIET) * shape(torch.linspace(0, 1, 200))
            objective, truth = IntensityObjective(curve, bench.args.domain), IntensityObjective(curve, "waveform")
            better = optimize_noise(bench.pipe, [case.caption] * len(plain), objective, latents=case.noise)
            results = {
                "no control": plain,
                "guidance": bench.sample(case, callback_on_step_end=LossGuidance(objective, bench.args.scale)),
                "noise optimisation": bench.sample(case, better),
                "noise optimisation, 1 step": bench.sample(case, better, num_inference_steps=1),
            }
            for method, waveforms in results.items():
                sound = Sound.of_latents(bench.pipe, case.noise).of_waveform(waveforms)
                entry = measured.setdefault(method, {}).setdefault(name, [])
                entry.append((truth.error(sound), truth.measure(sound), truth.target(sound)))
                if not (method == "no control" and name != next(iter(CURVES))):
                    hits = probe.recognized(bench.embed(waveforms), [case.label] * len(waveforms))
                    sounds.setdefault(method, []).append(hits)
    errors = {
        method: {name: torch.cat([error for error, _, _ in entry]).mean().item() for name, entry in curves.items()}
        for method, curves in measured.items()
    }
    mean = {method: float(np.mean(list(curves.values()))) for method, curves in errors.items()}
    recognised = {method: float(np.concatenate(hits).mean()) for method, hits in sounds.items()}
    print_table(
        ["method", *CURVES, "mean, dB", "of no control", "recognised"],
        [
            [
                method,
                *(f"{errors[method][name]:.2f}" for name in CURVES),
                f"{mean[method]:.2f}",
                f"{mean[method] / mean['no control']:.0%}",
                f"{recognised[method]:.1%}",
            ]
            for method in errors
        ],
    )
    draw_curves(measured, bench.args.output / "intensity.png")
    return {"errors": errors, "mean": mean, "recognised": recognised}


def draw_curves(measured: dict, path: Path) -> None:
    """Target and achieved curves: median and quartiles over all sounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 5.5), sharex=True, sharey=True)
    for axis, name in zip(axes.flat, CURVES, strict=True):
        for method, colour in (("no control", "0.6"), ("noise optimisation", "tab:orange"), ("guidance", "tab:blue")):
            levels = torch.cat([level for _, level, _ in measured[method][name]])
            seconds = torch.arange(levels.shape[1]) / 100
            low, middle, high = levels.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0)
            axis.plot(seconds, middle, color=colour, label=method)
            axis.fill_between(seconds, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.plot(seconds, measured["guidance"][name][0][2][0], "k--", label="target")
        axis.set_title(name)
    axes[0, 0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    for axis in axes[:, 0]:
        axis.set_ylabel("dB")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def bandwidth(bench: Bench) -> dict:
    """Real sounds above a cutoff, from what is below: log-spectral distance in the missing and in the known band."""
    rate = bench.pipe.sampling_rate
    distances: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for case in tqdm(bench.cases, desc="bandwidth"):
        low = split_bands(case.clips, rate, CUTOFF)[0]
        plain = bench.sample(case)
        plain = plain * (low.abs().amax(dim=1, keepdim=True) / plain.abs().amax(dim=1, keepdim=True))
        prompts = [case.caption] * len(low)
        results = {
            "guidance": extend_bandwidth(
                bench.pipe, prompts, low, rate, CUTOFF, bench.args.steps, scale=bench.args.scale, latents=case.noise
            )[:, 0].cpu(),
            "no control": low + split_bands(plain, rate, CUTOFF)[1],
            "mirrored spectrum": low + split_bands(mirrored_spectrum(low, rate), rate, CUTOFF)[1],
            "zeros": low,
        }
        for method, waveforms in results.items():
            missing = spectral_distance(waveforms, case.clips, rate, CUTOFF, rate / 2)
            distances.setdefault(method, []).append((missing, spectral_distance(waveforms, low, rate, 0, CUTOFF / 1.3)))
    rows = {
        method: [torch.cat(column).mean().item() for column in zip(*pairs, strict=True)]
        for method, pairs in distances.items()
    }
    print_table(
        [f"above {CUTOFF:g} Hz", "distance in the missing band, dB", "in the known band, dB"],
        [(method, *(f"{value:.2f}" for value in values)) for method, values in rows.items()],
    )
    return rows


def mirrored_spectrum(waveforms: torch.Tensor, rate: int) -> torch.Tensor:
    """What is below the cutoff, mirrored at it."""
    spectrum = torch.fft.rfft(waveforms)
    edge = round(CUTOFF / rate * waveforms.shape[1])
    above = spectrum.shape[1] - edge
    spectrum[:, edge:] = torch.cat([spectrum[:, :edge].flip(1), spectrum[:, :edge]], dim=1)[:, :above]
    return torch.fft.irfft(spectrum, waveforms.shape[1])


def spectral_distance(first: torch.Tensor, second: torch.Tensor, rate: int, low: float, high: float) -> torch.Tensor:
    """Root mean square over bins, mean over frames, of the distance of two spectrograms in dB: (B, samples) → (B,)."""
    window = torch.hann_window(1024)
    spectra = [torch.stft(x, 1024, 256, window=window, return_complex=True).abs() for x in (first, second)]
    decibels = [20 * (x / window.sum()).clamp(min=10 ** (FLOOR_DB / 20)).log10() for x in spectra]
    hertz = torch.linspace(0, rate / 2, 513)
    band = (hertz > low) & (hertz < high)
    return (decibels[0] - decibels[1])[:, band].square().mean(dim=1).sqrt().mean(dim=1)


def seams(waveforms: torch.Tensor, rate: int, seconds: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Change from frame to frame (B, len(seconds)) at given times, and its 95 % quantile over the whole sound (B, 1).

    Root mean square distance of neighbouring log-mel frames, averaged over a tenth of a second.
    """
    mel = log_mel(waveforms, sampling_rate=rate, hop_length=rate // 100)
    change = mel.diff(dim=1).square().mean(dim=-1).sqrt()
    change = torch.nn.functional.avg_pool1d(change[:, None], SEAM_FRAMES, 1, SEAM_FRAMES // 2)[:, 0]
    at = [min(round(100 * time), change.shape[1] - 1) for time in seconds]
    return change[:, at], change.quantile(0.95, dim=1, keepdim=True)


def inpainting(bench: Bench) -> dict:
    """A hole of 1 s in real sounds: kernel distance of what fills it, and the seams against the sound's own changes."""
    rate = bench.pipe.sampling_rate
    start, end = (round(edge * rate) for edge in HOLE)
    at = [HOLE[0] - FADE_IN_S / 2, HOLE[1] + FADE_IN_S / 2]
    fills: dict[str, list[torch.Tensor]] = {}
    within: dict[str, list[torch.Tensor]] = {}
    for case in tqdm(bench.cases, desc="inpainting"):
        plain = bench.sample(case)
        plain = plain * (case.clips.abs().amax(dim=1, keepdim=True) / plain.abs().amax(dim=1, keepdim=True))
        common = (bench.pipe, [case.caption] * len(plain), case.clips, rate, [HOLE])
        steps = {"num_inference_steps": bench.args.steps, "latents": case.noise}
        results = {
            "real": case.clips,
            "replacement": inpaint(*common, **steps)[:, 0].cpu(),
            "replacement and guidance": inpaint(*common, seam_scale=bench.args.scale, **steps)[:, 0].cpu(),
            "no control, cut in": torch.cat([case.clips[:, :start], plain[:, start:end], case.clips[:, end:]], dim=1),
            "mirrored surroundings": mirror_fill(case.clips, [(start, end)]),
            "silence": torch.cat([case.clips[:, :start], 0 * plain[:, start:end], case.clips[:, end:]], dim=1),
        }
        _, natural = seams(case.clips, rate, at)
        for method, waveforms in results.items():
            fills.setdefault(method, []).append(waveforms[:, start:end])
            within.setdefault(method, []).append(seams(waveforms, rate, at)[0] / natural)
    embedded = {method: bench.embed(torch.cat(pieces)) for method, pieces in fills.items()}
    rows = {}
    for method, ratios in within.items():
        ratio = torch.cat(ratios)
        distance = 1000 * kernel_distance(embedded[method], embedded["real"]).value
        rows[method] = [distance, (ratio <= 1).float().mean().item(), ratio.mean().item()]
    print_table(
        ["hole", "kernel distance × 1000", "seams within the sound's 95 %", "mean seam ÷ 95 %"],
        [(method, f"{d:.2f}", f"{share:.0%}", f"{ratio:.2f}") for method, (d, share, ratio) in rows.items()],
    )
    return rows


def loop(bench: Bench) -> dict:
    """End to start: the change at the join against the sound's own changes."""
    rate = bench.pipe.sampling_rate
    within: dict[str, list[torch.Tensor]] = {}
    for case in tqdm(bench.cases, desc="loop"):
        guidance, circle = LossGuidance(LoopObjective(), bench.args.scale), CircularTime()
        latents = {
            name: bench.sample(case, output_type="latent", callback_on_step_end=callback)
            for name, callback in (("decoded as a loop", None), ("guidance", guidance), ("circular time", circle))
        }
        loops = {"no control": bench.sample(case)}
        loops |= {name: decode_loop(bench.pipe, z_0)[:, 0].cpu() for name, z_0 in latents.items()}
        for method, waveforms in loops.items():
            length = waveforms.shape[1] / rate
            change, natural = seams(torch.cat([waveforms, waveforms], dim=1), rate, [length])
            within.setdefault(method, []).append(change / natural)
    rows = {method: torch.cat(ratios) for method, ratios in within.items()}
    rows = {method: [(ratio <= 1).float().mean().item(), ratio.mean().item()] for method, ratio in rows.items()}
    print_table(
        ["loop", "joins within the sound's 95 %", "mean join ÷ 95 %"],
        [(method, f"{share:.0%}", f"{ratio:.2f}") for method, (share, ratio) in rows.items()],
    )
    return rows


def variation(bench: Bench) -> dict:
    """Embedding distance from the draft over the amount of variation."""
    from scipy.stats import spearmanr

    amounts = np.linspace(0, 1, 11)
    embeddings = []
    for case in tqdm(bench.cases, desc="variation"):
        for amount in amounts:
            latents = vary(case.noise, float(amount), generator=torch.Generator().manual_seed(1))
            embeddings.append(bench.embed(bench.sample(case, latents, num_inference_steps=1)))
    x = np.stack(embeddings).reshape(len(bench.cases), len(amounts), bench.args.seeds, -1)
    x = (x - x.mean(axis=(0, 1, 2))) / (x.std(axis=(0, 1, 2)) + 1e-6)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    distance = 1 - (x * x[:, :1]).sum(-1)  # (prompts, amounts, seeds)
    overall = spearmanr(amounts, distance.mean(axis=(0, 2))).statistic
    each = [
        spearmanr(amounts, distance[i, :, j]).statistic for i, j in np.ndindex(distance.shape[0], distance.shape[2])
    ]
    means = distance.mean(axis=(0, 2))
    print_table(["amount", *(f"{a:.1f}" for a in amounts)], [["distance", *(f"{value:.2f}" for value in means)]])
    print(f"\nSpearman's correlation {overall:.3f}; of single drafts, median {np.median(each):.3f}.")
    return {"distance": means.tolist(), "spearman": float(overall), "median_of_drafts": float(np.median(each))}


def cost(bench: Bench) -> dict:
    """Time and memory of a controlled call beside an uncontrolled one, and whether memory grows."""
    case, on_gpu = bench.cases[0], bench.pipe.device.type == "cuda"
    objective = IntensityObjective([QUIET, LOUD], bench.args.domain)
    one = case.noise[:1]

    def seconds(**kwargs) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            bench.sample(case, one, **kwargs)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    def peak() -> float:
        if on_gpu:
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    rows = {"no control": [seconds(), peak()]}
    for name, checkpointing in (("guidance", True), ("guidance without checkpointing", False)):
        guidance = LossGuidance(objective, bench.args.scale, checkpointing=checkpointing)
        rows[name] = [seconds(callback_on_step_end=guidance), peak()]
    print_table(
        [f"one sound, {bench.args.steps} steps", "seconds", "÷ no control", "peak memory so far, MB"],
        [(name, f"{t:.2f}", f"{t / rows['no control'][0]:.2f}", f"{mb:.0f}") for name, (t, mb) in rows.items()],
    )
    guidance, used = LossGuidance(objective, bench.args.scale), []
    for _ in tqdm(range(bench.args.leak_calls), desc="leak"):
        bench.sample(case, one, num_inference_steps=2, callback_on_step_end=guidance)
        gc.collect()
        # Of this process now, not at its peak.
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(torch.cuda.memory_allocated() / 2**20 if on_gpu else pages * resource.getpagesize() / 2**20)
    half = len(used) // 2
    growth = float(np.mean(used[half:]) - np.mean(used[half // 2 : half]))
    print(f"\nMemory over {len(used)} guided calls: {growth:+.1f} MB from the second quarter to the second half.")
    return {"rows": rows, "growth_in_mb": growth}


def main() -> None:
    tables = {table.__name__: table for table in (intensity, bandwidth, inpainting, loop, variation, cost)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="data set with splits train and test and a column label")
    parser.add_argument("--cache", type=Path, required=True, help="folder of embeddings of real clips")
    parser.add_argument("--train-clips", type=int, help="fit the probe on the first so many training clips (all)")
    parser.add_argument("--output", type=Path, required=True, help="folder of results and figures")
    parser.add_argument("--pipeline", help="folder or Hub id (the embedded model)")
    parser.add_argument("--only", nargs="+", choices=tables, default=list(tables), help="tables to make (all)")
    parser.add_argument("--labels", nargs="+", default=LABELS, help="classes whose captions are the prompts")
    parser.add_argument("--seeds", type=int, default=4, help="sounds a prompt")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--scale", type=float, default=0.5, help="of LossGuidance")
    parser.add_argument("--domain", choices=("mel", "waveform"), default="mel", help="where loudness is guided")
    parser.add_argument("--leak-calls", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    print_command()
    print(f"{len(args.labels)} prompts × {args.seeds} seeds.")
    for name in args.only:
        print(f"\n{tables[name].__doc__}\n")
        write_json(args.output / f"{name}.json", tables[name](bench))


if __name__ == "__main__":
    main()
