"""Training-free control, measured: what it costs, intensity, bandwidth, holes, loops, and variations.

Prompts are captions of the test split for a few classes of sustained sounds, with the same noise for every method.
Each batch of sounds is kept under --output by weights, setting, prompt and seeds, but not by code: a changed library
needs another folder. An interrupted run resumes, tables and the figure share their sounds, and processes with different
--labels or --only can fill one folder before a last one makes all tables.

    python benchmarks/control.py --dataset data --cache runs/embeddings --output runs/control \
        --figure docs/images/control.png
"""

import argparse
import gc
import hashlib
import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import digest, print_command, print_table, real_embeddings, save_arrays, single_probe
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
from diffusers_soundctm.evaluation import fraction_interval, kernel_distance, load_embedding
from diffusers_soundctm.files import write_json

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
HOLE_IN_S = 1.0
AMOUNTS = np.linspace(0, 1, 11)
SEAM_FRAMES = 11  # of 10 ms, that a discontinuity is averaged over: a fade and the windows on either side
FLOOR_DB = -80.0

Sounds = Mapping[str, torch.Tensor]  # of each method, (seeds, samples)


@dataclass(frozen=True)
class Case:
    """One prompt."""

    label: str
    caption: str
    noise: torch.Tensor  # (seeds, C, time, width)
    clips: torch.Tensor  # (seeds, samples), real sounds of the label
    other_clips: torch.Tensor  # (seeds, samples), to compare with

    @property
    def prompts(self) -> list[str]:
        return [self.caption] * len(self.noise)


class Bench:
    """The model, the prompts, how sounds are heard, and those that were made already."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        model = args.pipeline
        self.pipe = SoundCTMPipeline.from_pretrained(model) if model else SoundCTMPipeline.from_embedded()
        networks = [self.pipe.denoiser, self.pipe.vae, self.pipe.vocoder, self.pipe.text_encoder]
        self.fingerprint = digest(*networks)
        self.pipe.to(args.device).set_progress_bar_config(disable=True)
        self.rate, self.length = self.pipe.sampling_rate, self.pipe.default_audio_length_in_s
        self.num_samples = round(self.length * self.rate)
        self.embedding = load_embedding()
        clips = load_clips(args.dataset, split="test", cache_dir=args.cache, num_samples=self.num_samples)
        self.cases = [self._case(label, clips) for label in args.labels]

    def _case(self, label: str, clips) -> Case:
        seeds = self.args.seeds
        found = [i for i, name in enumerate(clips.labels) if name == label][: 2 * seeds]
        if len(found) < 2 * seeds:
            raise ValueError(f"The test split has {len(found)} clips of {label!r}, {2 * seeds} are needed.")
        shape = self.pipe.latent_shape(self.num_samples)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)]
        real = torch.from_numpy(np.asarray(clips.waveforms[found], np.float32) / 32767)
        return Case(label, clips.captions[found[0]][0], torch.stack(noise), real[:seeds], real[seeds:])

    def kept(self, case: Case, name: str, make: Callable[[], torch.Tensor], **settings) -> torch.Tensor:
        """Sounds (seeds, samples) that `make` makes or has made; `settings` are what they depend on beside --steps."""
        settings = {"steps": self.args.steps} | settings
        key = json.dumps([self.fingerprint, name, case.label, case.caption, len(case.noise), settings])
        path = self.args.output / "sounds" / f"{name} {hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        if not path.exists():
            save_arrays(path, waveforms=make().cpu().reshape(len(case.noise), -1).numpy().astype(np.float16))
        return torch.from_numpy(np.load(path)["waveforms"].astype(np.float32))

    def embed(self, waveforms: torch.Tensor) -> np.ndarray:
        """Embeddings (N, D), kept as well."""
        waveforms = waveforms.numpy()
        path = self.args.output / "embeddings" / f"{hashlib.sha256(waveforms.tobytes()).hexdigest()[:24]}.npz"
        if not path.exists():
            save_arrays(path, embeddings=self.embedding.embed(waveforms, self.rate))
        return np.load(path)["embeddings"]

    def probe(self):
        train, labels, _ = real_embeddings(self.args.dataset, "train", self.args.cache, self.args.train_clips)
        return single_probe(train, labels, self.args.cache)

    def sample(self, case: Case, latents: torch.Tensor | None = None, **kwargs) -> torch.Tensor:
        """Sounds (seeds, 1, samples) of a prompt, or latents with `output_type`, in --steps from its noise."""
        latents = case.noise if latents is None else latents
        kwargs = {"num_inference_steps": self.args.steps, "output_type": "pt", "latents": latents} | kwargs
        return self.pipe(case.prompts[: len(latents)], **kwargs).audios

    def plain(self, case: Case) -> torch.Tensor:
        return self.kept(case, "no control", lambda: self.sample(case))

    def guidance(self, objective) -> LossGuidance:
        return LossGuidance(objective, self.args.scale, self.args.inner_steps, checkpointing=False)


def cost(bench: Bench) -> dict:
    """Time and memory of a controlled call beside an uncontrolled one, and whether memory grows."""
    args, case, on_gpu = bench.args, bench.cases[0], bench.pipe.device.type == "cuda"
    objective, one = IntensityObjective([QUIET, LOUD], args.domain), case.noise[:1]

    def seconds(**kwargs) -> float:
        start = time.perf_counter()
        bench.sample(case, one, **kwargs)
        return time.perf_counter() - start

    def peak() -> float:
        if on_gpu:
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    calls = {
        "no control": {},
        "no control, 1 step": {"num_inference_steps": 1},
        "guidance": {"callback_on_step_end": LossGuidance(objective, args.scale, args.inner_steps)},
        "guidance without checkpointing": {"callback_on_step_end": bench.guidance(objective)},
    }
    peaks, times = {}, {name: [] for name in calls}
    for name, call in calls.items():
        seconds(**call)
        peaks[name] = peak()
    for _ in tqdm(range(args.repeats), desc="cost"):  # side by side: other jobs slow all of them alike
        for name, call in calls.items():
            times[name].append(seconds(**call))
    times = {name: float(np.median(values)) for name, values in times.items()}
    print_table(
        ["one sound", "seconds", "÷ no control", "peak memory up to here, MB"],
        [(name, f"{t:.2f}", f"{t / times['no control']:.2f}", f"{peaks[name]:.0f}") for name, t in times.items()],
    )
    network = (times["no control"] - times["no control, 1 step"]) / max(args.steps - 1, 1)
    extra = (times["guidance without checkpointing"] - times["no control"]) / args.steps
    again = (times["guidance"] - times["guidance without checkpointing"]) / args.steps
    print(
        f"\nA step without control is one pass of the network, {network:.3f} s. Guidance adds {extra:.3f} s to it: the "
        f"network forwards and backwards, about {2 * network:.3f} s, and what the objective decodes, forwards and "
        f"backwards; checkpointing decodes once more, {again:.3f} s."
    )

    guidance, used = LossGuidance(objective, args.scale), []
    for _ in tqdm(range(args.leak_calls), desc="leak"):
        bench.sample(case, one, num_inference_steps=1, callback_on_step_end=guidance)
        gc.collect()
        # Of this process now, not at its peak.
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(torch.cuda.memory_allocated() / 2**20 if on_gpu else pages * resource.getpagesize() / 2**20)
    half = len(used) // 2
    growth = float(np.mean(used[half:]) - np.mean(used[half // 2 : half]))
    print(f"\nMemory over {len(used)} guided calls: {growth:+.1f} MB from the second quarter to the second half.")
    return {"seconds": times, "peak_in_mb": peaks, "growth_in_mb": growth}


def intensity_sounds(bench: Bench, case: Case, name: str) -> Sounds:
    """Without control, and guided to one of the curves."""
    args = bench.args
    objective = IntensityObjective(target_curve(name), args.domain)

    def optimized() -> torch.Tensor:
        common = {"num_iterations": args.iterations, "latents": case.noise, "checkpointing": False}
        return bench.sample(case, optimize_noise(bench.pipe, case.prompts, objective, **common))

    settings = {"curve": name, "domain": args.domain}
    return {
        "no control": bench.plain(case),
        "noise optimization": bench.kept(case, "noise optimization", optimized, **settings, iterations=args.iterations),
        "guidance": bench.kept(
            case,
            "guidance",
            lambda: bench.sample(case, callback_on_step_end=bench.guidance(objective)),
            **settings,
            scale=args.scale,
            inner_steps=args.inner_steps,
        ),
        "fader on the uncontrolled sound": faded(bench, bench.plain(case), name),
    }


def faded(bench: Bench, waveforms: torch.Tensor, name: str) -> torch.Tensor:
    """With a gain that brings the loudness to a curve: what any sound that follows it has to bear."""
    objective, sound = IntensityObjective(target_curve(name), "waveform"), heard(bench, waveforms)
    gain = (objective.target(sound) - objective.measure(sound)).clamp(max=40)
    gain = torch.nn.functional.interpolate(gain[:, None], waveforms.shape[1], mode="linear")[:, 0]
    return waveforms * 10 ** (gain / 20)


def target_curve(name: str) -> torch.Tensor:
    """dB, spread over the sound."""
    return QUIET + (LOUD - QUIET) * CURVES[name](torch.linspace(0, 1, 200))


def heard(bench: Bench, waveforms: torch.Tensor) -> Sound:
    return Sound.of_latents(bench.pipe, bench.cases[0].noise).of_waveform(waveforms)


def intensity(bench: Bench) -> dict:
    """Loudness curves: mean absolute error in dB of the waveform's short-time level, and is the sound still heard?"""
    probe = bench.probe()
    hits: dict[str, list[np.ndarray]] = {}
    errors: dict[str, dict[str, list[torch.Tensor]]] = {}
    for case in tqdm(bench.cases, desc="intensity"):
        for name in CURVES:
            truth = IntensityObjective(target_curve(name), "waveform")
            for method, waveforms in intensity_sounds(bench, case, name).items():
                error = truth.error(heard(bench, waveforms))
                errors.setdefault(method, {}).setdefault(name, []).append(error)
                recognized = probe.recognized(bench.embed(waveforms), [case.label] * len(waveforms))
                hits.setdefault(method, []).append(recognized)
    errors = {
        method: {name: torch.cat(values).mean().item() for name, values in curves.items()}
        for method, curves in errors.items()
    }
    mean = {method: float(np.mean(list(curves.values()))) for method, curves in errors.items()}
    # The same uncontrolled sounds stand beside every curve.
    hits["no control"] = hits["no control"][:: len(CURVES)]
    hits = {method: np.concatenate(values) for method, values in hits.items()}
    intervals = {method: fraction_interval(values) for method, values in hits.items()}
    print_table(
        ["method", *CURVES, "mean, dB", "of no control", "recognized", "of sounds"],
        [
            [
                method,
                *(f"{errors[method][name]:.2f}" for name in CURVES),
                f"{mean[method]:.2f}",
                f"{mean[method] / mean['no control']:.0%}",
                f"{hits[method].mean():.1%} [{intervals[method][0]:.1%}, {intervals[method][1]:.1%}]",
                len(hits[method]),
            ]
            for method in errors
        ],
    )
    return {"errors": errors, "mean": mean, "recognized": {m: float(values.mean()) for m, values in hits.items()}}


def bandwidth_sounds(bench: Bench, case: Case) -> Sounds:
    """Real clips above a cutoff, completed from what is below."""
    args, rate = bench.args, bench.rate
    low = split_bands(case.clips, rate, CUTOFF)[0]
    plain = as_loud(bench.plain(case), low)

    def guided() -> torch.Tensor:
        return extend_bandwidth(bench.pipe, case.prompts, low, rate, CUTOFF, args.steps, latents=case.noise)

    return {
        "guidance": bench.kept(case, "bandwidth", guided),
        "no control": low + split_bands(plain, rate, CUTOFF)[1],
        "mirrored spectrum": low + split_bands(mirrored_spectrum(low, rate), rate, CUTOFF)[1],
        "zeros": low,
    }


def bandwidth(bench: Bench) -> dict:
    """Real sounds above a cutoff, from what is below: log-spectral distance in the missing and in the known band."""
    rate = bench.rate
    distances: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for case in tqdm(bench.cases, desc="bandwidth"):
        for method, waveforms in bandwidth_sounds(bench, case).items():
            missing = spectral_distance(waveforms, case.clips, rate, CUTOFF, rate / 2)
            # What lies in the third of an octave below the cutoff is faded.
            known = spectral_distance(waveforms, case.clips, rate, 0, CUTOFF / 1.3)
            distances.setdefault(method, []).append((missing, known))
    rows = {
        method: [torch.cat(column).mean().item() for column in zip(*pairs, strict=True)]
        for method, pairs in distances.items()
    }
    print_table(
        [f"above {CUTOFF:g} Hz", "distance in the missing band, dB", "in the known band, dB"],
        [(method, *(f"{value:.2f}" for value in values)) for method, values in rows.items()],
    )
    return rows


def as_loud(waveforms: torch.Tensor, as_these: torch.Tensor) -> torch.Tensor:
    """(N, samples) with the peaks of others."""
    return waveforms * (as_these.abs().amax(dim=1, keepdim=True) / waveforms.abs().amax(dim=1, keepdim=True))


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

    Root mean square distance of neighboring log-mel frames, averaged over a tenth of a second.
    """
    mel = log_mel(waveforms, sampling_rate=rate, hop_length=rate // 100)
    change = mel.diff(dim=1).square().mean(dim=-1).sqrt()
    change = torch.nn.functional.avg_pool1d(change[:, None], SEAM_FRAMES, 1, SEAM_FRAMES // 2)[:, 0]
    at = [min(round(100 * time), change.shape[1] - 1) for time in seconds]
    return change[:, at], change.quantile(0.95, dim=1, keepdim=True)


def hole(bench: Bench) -> tuple[float, float]:
    """Its edges in seconds, in the middle of the sound."""
    return (bench.length - HOLE_IN_S) / 2, (bench.length + HOLE_IN_S) / 2


def inpainting_sounds(bench: Bench, case: Case) -> Sounds:
    """Real clips with a hole, filled."""
    args, rate, clips = bench.args, bench.rate, case.clips
    start, end = (round(edge * rate) for edge in hole(bench))
    plain = as_loud(bench.plain(case), clips)

    def filled(seam_scale: float) -> torch.Tensor:
        common = {"num_inference_steps": args.steps, "seam_scale": seam_scale, "latents": case.noise}
        return inpaint(bench.pipe, case.prompts, clips, rate, [hole(bench)], **common)

    return {
        "replacement": bench.kept(case, "hole", lambda: filled(0), seam_scale=0),
        "replacement and guidance": bench.kept(case, "hole", lambda: filled(args.scale), seam_scale=args.scale),
        "no control, cut in": torch.cat([clips[:, :start], plain[:, start:end], clips[:, end:]], dim=1),
        "mirrored surroundings": mirror_fill(clips, [(start, end)]),
        "silence": torch.cat([clips[:, :start], 0 * clips[:, start:end], clips[:, end:]], dim=1),
        "the real sound": clips,
    }


def inpainting(bench: Bench) -> dict:
    """A hole of 1 s in real sounds: kernel distance of what fills it, and the seams against the sound's own changes."""
    start, end = (round(edge * bench.rate) for edge in hole(bench))
    at = [hole(bench)[0] - FADE_IN_S / 2, hole(bench)[1] + FADE_IN_S / 2]
    fills: dict[str, list[torch.Tensor]] = {}
    within: dict[str, list[torch.Tensor]] = {}
    for case in tqdm(bench.cases, desc="inpainting"):
        _, natural = seams(case.clips, bench.rate, at)
        for method, waveforms in inpainting_sounds(bench, case).items():
            fills.setdefault(method, []).append(waveforms[:, start:end])
            within.setdefault(method, []).append(seams(waveforms, bench.rate, at)[0] / natural)
    other = bench.embed(torch.cat([case.other_clips[:, start:end] for case in bench.cases]))
    rows = {}
    for method, ratios in within.items():
        ratio, distance = torch.cat(ratios), kernel_distance(bench.embed(torch.cat(fills[method])), other)
        rows[method] = {
            "kernel_distance": distance.value,
            "interval": [distance.low, distance.high],
            "within": (ratio <= 1).float().mean().item(),
            "mean_ratio": ratio.mean().item(),
        }
    print_table(
        ["hole", "kernel distance × 1000 to other real sounds", "seams within the sound's 95 %", "mean seam ÷ 95 %"],
        [
            (
                method,
                "{:.0f} [{:.0f}, {:.0f}]".format(*(1000 * v for v in (row["kernel_distance"], *row["interval"]))),
                f"{row['within']:.0%}",
                f"{row['mean_ratio']:.2f}",
            )
            for method, row in rows.items()
        ],
    )
    return rows


def loop_sounds(bench: Bench, case: Case) -> Sounds:
    """As they come, decoded as loops, and made to be loops."""

    def looped(callback) -> torch.Tensor:
        z_0 = bench.sample(case, output_type="latent", callback_on_step_end=callback)
        return decode_loop(bench.pipe, z_0)

    return {
        "no control": bench.plain(case),
        "decoded as a loop": bench.kept(case, "loop", lambda: looped(None)),
        "guidance": bench.kept(
            case,
            "guided loop",
            lambda: looped(bench.guidance(LoopObjective())),
            scale=bench.args.scale,
            inner_steps=bench.args.inner_steps,
        ),
        "circular time": bench.kept(case, "circular time", lambda: looped(CircularTime())),
    }


def loop(bench: Bench) -> dict:
    """End to start: the change at the join against the sound's own changes."""
    within: dict[str, list[torch.Tensor]] = {}
    for case in tqdm(bench.cases, desc="loop"):
        for method, waveforms in loop_sounds(bench, case).items():
            length = waveforms.shape[1] / bench.rate
            change, natural = seams(torch.cat([waveforms, waveforms], dim=1), bench.rate, [length])
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

    def varied(case: Case, amount: float) -> torch.Tensor:
        latents = vary(case.noise, amount, generator=torch.Generator().manual_seed(1))
        return bench.sample(case, latents, num_inference_steps=1)

    embeddings = [
        bench.embed(bench.kept(case, "variation", lambda c=case, a=amount: varied(c, a), steps=1, amount=amount))
        for case in tqdm(bench.cases, desc="variation")
        for amount in AMOUNTS.tolist()
    ]
    x = np.stack(embeddings).reshape(len(bench.cases), len(AMOUNTS), bench.args.seeds, -1)
    x = (x - x.mean(axis=(0, 1, 2))) / (x.std(axis=(0, 1, 2)) + 1e-6)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    distance = 1 - (x * x[:, :1]).sum(-1)  # (prompts, amounts, seeds)
    means = distance.mean(axis=(0, 2))
    overall = spearmanr(AMOUNTS, means).statistic
    each = [
        spearmanr(AMOUNTS, distance[i, :, j]).statistic for i, j in np.ndindex(distance.shape[0], distance.shape[2])
    ]
    print_table(["amount", *(f"{a:.1f}" for a in AMOUNTS)], [["distance", *(f"{value:.2f}" for value in means)]])
    print(f"\nSpearman's correlation {overall:.3f}; of single drafts, median {np.median(each):.3f}.")
    return {"distance": means.tolist(), "spearman": float(overall), "median_of_drafts": float(np.median(each))}


def draw(bench: Bench, path: Path) -> None:
    """Target and achieved curves, median and quartiles over all sounds; below, the spectrograms of single ones."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 15), layout="constrained")
    curves, pictures = figure.subfigures(2, 1, height_ratios=(1, 1.7))
    axes = curves.subplots(2, 3, sharex=True, sharey=True)
    colors = {"no control": "0.6", "noise optimization": "tab:orange", "guidance": "tab:blue"}
    for axis, name in zip(axes.flat, CURVES, strict=True):
        truth = IntensityObjective(target_curve(name), "waveform")
        cases = [intensity_sounds(bench, case, name) for case in bench.cases]
        for method, color in colors.items():
            levels = truth.measure(heard(bench, torch.cat([sounds[method] for sounds in cases])))
            seconds = torch.arange(levels.shape[1]) / 100
            low, middle, high = levels.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0)
            axis.plot(seconds, middle, color=color, label=method)
            axis.fill_between(seconds, low, high, color=color, alpha=0.2, linewidth=0)
        target = truth.target(heard(bench, cases[0]["guidance"]))
        axis.plot(seconds, target[0], "k--", label="target")
        axis.set_title(name)
    axes[0, 0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    for axis in axes[:, 0]:
        axis.set_ylabel("dB")

    case = bench.cases[0]
    drawn, holes = intensity_sounds(bench, case, "up, down"), inpainting_sounds(bench, case)
    bands = bandwidth_sounds(bench, case) | {"the real sound": case.clips}
    loops = {f"{name}, twice": x.repeat(1, 2) for name, x in loop_sounds(bench, case).items()}
    rows = {
        f"loudness up and down: {case.caption}": (drawn, ("no control", "noise optimization", "guidance")),
        "a hole": (holes, ("silence", "replacement", "the real sound")),
        f"nothing above {CUTOFF:g} Hz": (bands, ("zeros", "guidance", "the real sound")),
        "a loop": (loops, ("no control, twice", "decoded as a loop, twice", "circular time, twice")),
    }
    for part, (title, (sounds, shown)) in zip(pictures.subfigures(4, 1), rows.items(), strict=True):
        part.suptitle(title)
        for axis, name in zip(part.subplots(1, 3, sharey=True), shown, strict=True):
            mel = log_mel(sounds[name][0], sampling_rate=bench.rate, hop_length=bench.rate // 100)
            extent = (0, sounds[name].shape[1] / bench.rate, 0, mel.shape[1])
            axis.imshow(mel.T, origin="lower", aspect="auto", cmap="magma", vmin=-9, vmax=1, extent=extent)
            axis.set_title(name, fontsize=9)
    figure.savefig(path, dpi=70)
    plt.close(figure)


def main() -> None:
    # Cost comes first: its memory is that of one call, before batches.
    tables = {table.__name__: table for table in (cost, intensity, bandwidth, inpainting, loop, variation)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="data set with splits train and test and a column label")
    parser.add_argument("--cache", type=Path, required=True, help="folder of embeddings of real clips")
    parser.add_argument("--train-clips", type=int, help="fit the probe on the first so many training clips (all)")
    parser.add_argument("--output", type=Path, required=True, help="folder of results, sounds and embeddings")
    parser.add_argument("--figure", type=Path, help="where to draw curves and spectrograms (nowhere)")
    parser.add_argument("--pipeline", help="folder or Hub id (the embedded model)")
    parser.add_argument("--only", nargs="+", choices=tables, default=list(tables), help="tables to make (all)")
    parser.add_argument("--labels", nargs="+", default=LABELS, help="classes whose captions are the prompts")
    parser.add_argument("--seeds", type=int, default=4, help="sounds per prompt (%(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="%(default)s by default")
    parser.add_argument("--scale", type=float, default=0.2, help="of guidance by loudness and loops (%(default)s)")
    parser.add_argument("--inner-steps", type=int, default=1, help="gradient steps per noise level (%(default)s)")
    parser.add_argument("--iterations", type=int, default=20, help="iterations of noise optimization (%(default)s)")
    parser.add_argument("--domain", choices=("mel", "waveform"), default="mel", help="where loudness is guided")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of each timed call (%(default)s)")
    parser.add_argument("--leak-calls", type=int, default=50, help="%(default)s by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    args = parser.parse_args()
    if args.seeds * len(args.labels) < 2:
        parser.error("--seeds 1 with one of --labels is one sound; kernel distances need two.")

    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    print_command()
    print(f"{len(args.labels)} prompts × {args.seeds} seeds, {args.steps} steps.")
    for name in args.only:
        print(f"\n{tables[name].__doc__}\n")
        write_json(args.output / f"{name}.json", tables[name](bench))
    if args.figure is not None:
        draw(bench, args.figure)


if __name__ == "__main__":
    main()
