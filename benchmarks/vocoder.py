"""How well a vocoder resynthesizes held-out sounds, compared with Griffin-Lim: recognition, kernel distance to the
same clips, mel error, harmonics, speed.

python benchmarks/vocoder.py --vocoder runs/vocoder/vocoder --dataset data [--autoencoder runs/autoencoder/vae] \
    [--probe runs/embeddings/probe-4000.npz]

`benchmarks/probe.py` leaves the probe in its cache. It measures clips of one sound, not mixtures.

Harmonics and pitch are measured where the real sound is tonal: frames whose autocorrelation reaches HNR >= 15 dB.
"""

import argparse
import time
from collections.abc import Callable

import librosa
import numpy as np
import torch
from diffusers import AutoencoderKL

from common import PAIR, print_command, print_table
from diffusers_soundctm import ISTFTVocoder
from diffusers_soundctm.audio import LogMel, peak_normalize
from diffusers_soundctm.data import load_clips
from diffusers_soundctm.evaluation import LinearProbe, kernel_distance, load_embedding

FRAME, HOP = 1024, 512
TONAL_DB = 15.0


def autocorrelation(waveform: torch.Tensor, frame: int = FRAME, hop: int = HOP) -> torch.Tensor:
    """Autocorrelation of windowed frames over that of the window (Boersma 1993): (samples,) → (frames, lags)."""
    window = torch.hann_window(frame)
    frames = waveform.unfold(0, frame, hop)
    frames = (frames - frames.mean(dim=1, keepdim=True)) * window

    def correlate(x: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, 2 * frame).abs().square())[..., : frame // 2]

    raw, shape = correlate(frames), correlate(window)
    return raw / raw[:, :1].clamp(min=1e-9) / (shape / shape[0])


def harmonics(reference: torch.Tensor, sounds: list[torch.Tensor], rate: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each sound, HNR in dB at the reference's period and pitch error in cents, in the reference's tonal frames."""
    first, last = rate // 1000, FRAME // 3
    loud = reference.unfold(0, FRAME, HOP).square().mean(1)
    real = autocorrelation(reference)
    # The shortest period that is nearly as good as the best, not a multiple of it.
    peaks = real[:, first:last]
    good = peaks >= 0.97 * peaks.amax(dim=1, keepdim=True)
    local = torch.nn.functional.max_pool1d(peaks[:, None], 3, 1, 1)[:, 0] == peaks
    period = (good & local).float().argmax(dim=1) + first
    best = real.gather(1, period[:, None])[:, 0]
    tonal = (
        (best >= 10 ** (TONAL_DB / 10) / (1 + 10 ** (TONAL_DB / 10))) & (loud > 1e-3 * loud.max()) & (period > first)
    )
    found = []
    for sound in sounds:
        near = period[:, None] + torch.arange(-3, 4)
        values = autocorrelation(sound).gather(1, near.clamp(1, FRAME // 2 - 1))
        ratio = values.amax(dim=1).clamp(1e-3, 1 - 1e-5)
        # A parabola through the peak gives the period to a fraction of a sample.
        middle = values.argmax(dim=1).clamp(1, 5)
        left, center, right = (values.gather(1, middle[:, None] + d)[:, 0] for d in (-1, 0, 1))
        shift = (0.5 * (left - right) / (left - 2 * center + right).clamp(max=-1e-9)).clamp(-1, 1)
        lag = near.gather(1, middle[:, None])[:, 0] + shift
        found.append(((10 * torch.log10(ratio / (1 - ratio)))[tonal].numpy(), lag[tonal].numpy()))
    lags = found[0][1]
    return [(hnr, 1200 * np.log2(lags / lag)) for hnr, lag in found]


def griffin_lim(mel: LogMel, iterations: int = 64) -> Callable[[torch.Tensor], torch.Tensor]:
    """librosa's: non-negative least squares for the magnitude, then `iterations` projections."""

    def vocode(log_mel: torch.Tensor) -> torch.Tensor:
        power = log_mel.exp().T.numpy()
        magnitude = librosa.util.nnls(mel.filterbank.T.numpy(), power)
        length = log_mel.shape[0] * mel.hop_length
        # The centerd transform of `length` samples has one frame more.
        magnitude = np.concatenate([magnitude, magnitude[:, -1:]], axis=1)
        waveform = librosa.griffinlim(
            magnitude, n_iter=iterations, hop_length=mel.hop_length, n_fft=mel.n_fft, length=length, random_state=0
        )
        return torch.from_numpy(waveform).float()

    return vocode


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocoder", required=True, help="folder of an ISTFTVocoder")
    parser.add_argument("--autoencoder", help="folder of the VAE, to measure the chain too")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--probe", help="file of a fitted linear probe, to measure recognition")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--cache_dir", help="decoded clips")
    parser.add_argument("--no_griffin_lim", action="store_true")
    args = parser.parse_args()

    vocoder = ISTFTVocoder.from_pretrained(args.vocoder).eval()
    rate, hop = vocoder.config.sampling_rate, vocoder.config.hop_length
    mel = LogMel(rate, vocoder.config.n_fft, hop, vocoder.config.model_in_dim)
    clips = load_clips(args.dataset, split=args.split, sampling_rate=rate, cache_dir=args.cache_dir)
    unmatched = ISTFTVocoder.from_pretrained(args.vocoder, mel_iterations=0).eval()
    methods: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"ours": vocoder, "ours, 0 iterations": unmatched}
    if args.autoencoder:
        vae = AutoencoderKL.from_pretrained(args.autoencoder).eval()

        def through_vae(log_mel: torch.Tensor) -> torch.Tensor:
            return vocoder(vae.decode(vae.encode(log_mel[None, None]).latent_dist.mode()).sample[0, 0])

        methods["autoencoder, ours"] = through_vae
    if not args.no_griffin_lim:
        methods["Griffin-Lim, 64 iterations"] = griffin_lim(mel)

    error: dict[str, list[float]] = {name: [] for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    tonal: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in ["real", *methods]}
    heard: dict[str, list[bool]] = {name: [] for name in tonal}
    embedded: dict[str, list[np.ndarray]] = {name: [] for name in tonal}
    if args.probe:
        probe, embedding = LinearProbe.load(args.probe), load_embedding()
    for index in np.linspace(0, len(clips) - 1, min(args.clips, len(clips))).astype(int):
        real = peak_normalize(torch.from_numpy(clips.waveforms[index].astype(np.float32)))
        real = real[: len(real) // hop * hop]
        target = mel(real)
        sounds = [real]
        for name, method in methods.items():
            started = time.perf_counter()
            sounds.append(method(target))
            seconds[name] += time.perf_counter() - started
            error[name].append((mel(sounds[-1]) - target).abs().mean().item())
        for name, result in zip(tonal, harmonics(real, sounds, rate), strict=True):
            tonal[name].append(result)
        if args.probe and PAIR not in clips.labels[index]:
            embeddings = embedding.embed(torch.stack(sounds).numpy(), rate)
            hits = probe.recognized(embeddings, [clips.labels[index]] * len(sounds))
            for name, hit, vector in zip(heard, hits, embeddings, strict=True):
                heard[name].append(hit)
                embedded[name].append(vector)

    duration = len(error["ours"]) * len(real) / rate
    rows = []
    for name, results in tonal.items():
        distance = ""
        if args.probe and name in methods:
            distance = f"{1000 * kernel_distance(np.stack(embedded[name]), np.stack(embedded['real'])).value:.0f}"
        hnr, cents = (np.concatenate([result[i] for result in results]) for i in (0, 1))
        rows.append([
            name,
            f"{np.mean(heard[name]):.1%} of {len(heard[name])}" if heard[name] else "",
            distance,
            f"{np.mean(error[name]):.3f}" if name in error else "0",
            f"{np.mean(hnr):.1f}",
            f"{np.median(np.abs(cents)):.1f}",
            f"{duration / seconds[name]:.0f}" if name in seconds else "",
        ])  # fmt: skip
    print_command()
    print(f"{len(error['ours'])} clips of {args.split!r}, {len(hnr)} tonal frames, {torch.get_num_threads()} threads\n")
    header = [
        "waveform",
        "recognized",
        "kernel distance × 1000",
        "mel L1 (ln)",
        "HNR dB",
        "|pitch error| cents",
        "x real time",
    ]
    print_table(header, rows)


if __name__ == "__main__":
    main()
