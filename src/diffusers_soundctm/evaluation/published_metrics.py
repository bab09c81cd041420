"""The metrics that the SoundCTM papers report, computed with the libraries that define their networks."""

import csv
import importlib.util
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from ..audio import as_samples, peak_normalize, read_audio
from .distances import frechet_distance
from .sounds import AUDIO_SUFFIXES, audio_files

PEAK = 10 ** (-1 / 20)  # stable-audio-metrics normalizes every waveform to a peak of -1 dB
CLAP_MODEL = "laion/clap-htsat-unfused"  # LAION's 630k-audioset-best


def read_captions(path: str | os.PathLike) -> dict[str, str]:
    """Read captions from a csv file with the columns `caption` and `file_name`, or AudioCaps' `audiocap_id`.

    Returns:
        Name → caption. A name is a file's name without folder and extension.

    Raises:
        ValueError: a column is missing, there are no rows, a row has no caption, or a name is repeated.
    """
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0].keys() if rows else ()
    key = next((name for name in ("file_name", "audiocap_id") if name in columns), None)
    if key is None or "caption" not in columns:
        raise ValueError(f"`captions` {path} needs the columns `caption` and `file_name` (or `audiocap_id`), and rows.")
    captions: dict[str, str] = {}
    for row in rows:
        if not row[key] or not (row["caption"] or "").strip():
            raise ValueError(f"`captions` {path} has a row without a name or a caption ({row[key]!r}); complete it.")
        name = Path(row[key]).stem
        if name in captions:
            raise ValueError(f"`captions` {path} names {name} twice; keep one caption per sound, or rename the sound.")
        captions[name] = row["caption"].strip()
    return captions


def compute_metrics(
    names: Sequence[str],
    generated: str | os.PathLike,
    reference: str | os.PathLike | None = None,
    captions: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Compute metrics between two folders of sounds whose file names match.

    Args:
        names: keys of `METRICS`.
        generated: folder of generated sounds.
        reference: folder of real sounds; `clap` needs none.
        captions: name → caption, for `clap`.

    Returns:
        Name of the metric → value.

    Raises:
        ValueError: a metric is unknown, something that it needs is missing, or CLAP fails on its known pairs.
        ImportError: the library of a metric is not installed; the message says how to install it.
    """
    unknown = set(names) - set(METRICS)
    if unknown:
        raise ValueError(f"`metrics` has {sorted(unknown)}; choose among {', '.join(METRICS)}.")
    sounds = {"generated": _files(generated), "reference": {} if reference is None else _files(reference)}
    return {name: METRICS[name](sounds["generated"], sounds["reference"], captions or {}) for name in names}


def check_metrics(names: Sequence[str], captions: Collection[str], reference: str | os.PathLike) -> None:
    """Check in advance that `compute_metrics` can run on sounds with the names in `captions`.

    Raises:
        ValueError, ImportError: see `compute_metrics`.
    """
    for name in names:
        if name in LIBRARIES and importlib.util.find_spec(LIBRARIES[name]) is None:
            raise _not_installed(LIBRARIES[name])
    files = _files(reference)
    if "kl-passt" in names:
        _pairs(captions, files)


def fad_vggish(generated: Mapping[str, Path], reference: Mapping[str, Path], captions: Mapping[str, str]) -> float:
    """Compute the Fréchet distance of VGGish embeddings over windows of 0.96 s, without PCA."""
    library = _library("frechet_audio_distance")
    network = library.FrechetAudioDistance(model_name="vggish", sample_rate=16000)
    return _frechet(lambda waveform: network.get_embeddings([waveform], 16000), 16000, generated, reference)


def fd_openl3(generated: Mapping[str, Path], reference: Mapping[str, Path], captions: Mapping[str, str]) -> float:
    """Compute the Fréchet distance of OpenL3 embeddings: environmental sounds, mono, 44.1 kHz, one per 0.5 s."""
    openl3 = _library("openl3")
    model = openl3.models.load_audio_embedding_model(input_repr="mel256", content_type="env", embedding_size=512)

    def embed(waveform: np.ndarray) -> np.ndarray:
        return openl3.get_audio_embedding(waveform, 44100, model=model, hop_size=0.5, verbose=False)[0]

    return _frechet(embed, 44100, generated, reference, PEAK)


def kl_passt(generated: Mapping[str, Path], reference: Mapping[str, Path], captions: Mapping[str, str]) -> float:
    """Compute the mean KL(generated ‖ reference) of PaSST's 527 classes after a softmax, over pairs of equal name.

    Logits are averaged over half overlapping windows of 10 s.
    """
    import torch

    base = _library("hear21passt.base")
    model = base.get_basic_model(mode="logits").eval()
    window, step = 320000, 160000

    @torch.no_grad()
    def log_probabilities(path: Path) -> torch.Tensor:
        waveform = torch.from_numpy(_waveform(path, 32000, PEAK))
        starts = range(0, max(step, len(waveform) - step), step)
        parts = [
            torch.nn.functional.pad(waveform[s : s + window], (0, max(0, s + window - len(waveform)))) for s in starts
        ]
        return torch.cat([model(part[None]) for part in parts]).mean(dim=0).double().log_softmax(dim=-1)

    pairs = _pairs(generated, reference)
    total = 0.0
    for name in pairs:
        ours, theirs = log_probabilities(generated[name]), log_probabilities(reference[name])
        total += float((ours.exp() * (ours - (theirs.exp() + 1e-6).log())).sum())
    return total / len(pairs)


def clap_score(generated: Mapping[str, Path], reference: Mapping[str, Path], captions: Mapping[str, str]) -> float:
    """Compute the mean cosine of the CLAP embeddings of a sound and of its caption; `reference` is not used."""
    names = _pairs(generated, captions, "captions")
    clap = Clap()
    check_known_pairs(clap)
    scores = []
    for name in names:
        text = clap.embed_text([captions[name]])
        scores.append(float((text * clap.embed(_waveform(generated[name], 48000, PEAK)[None], 48000)).sum()))
    return float(np.mean(scores))


METRICS: dict[str, Callable[..., float]] = {
    "fad-vggish": fad_vggish,
    "fd-openl3": fd_openl3,
    "kl-passt": kl_passt,
    "clap": clap_score,
}
LIBRARIES = {"fad-vggish": "frechet_audio_distance", "fd-openl3": "openl3", "kl-passt": "hear21passt"}


class Clap:
    """LAION-CLAP in transformers, with unit vectors for waveforms and texts. It is also an embedding for `compare`.

    Args:
        model: folder or Hub id.
    """

    sampling_rate = 48000

    def __init__(self, model: str = CLAP_MODEL):
        from transformers import ClapModel, ClapProcessor

        self.model = ClapModel.from_pretrained(model).eval()
        self.processor = ClapProcessor.from_pretrained(model)

    def embed(self, waveforms: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embed the first 10 s of waveforms (N, samples) as float32 (N, dimensions), see `AudioEmbedding.embed`."""
        import soxr

        waveforms = soxr.resample(as_samples(waveforms, "waveforms").numpy().T, sampling_rate, self.sampling_rate).T
        extractor = self.processor.feature_extractor
        inputs = extractor(
            list(waveforms[:, : extractor.nb_max_samples]), sampling_rate=self.sampling_rate, return_tensors="pt"
        )
        return self._unit(self.model.get_audio_features, inputs)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts as float32 (N, dimensions)."""
        inputs = self.processor.tokenizer(
            list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt"
        )
        return self._unit(self.model.get_text_features, inputs)

    def _unit(self, features: Callable, inputs: Mapping) -> np.ndarray:
        import torch

        with torch.inference_mode():
            embeddings = features(**inputs)
        embeddings = getattr(embeddings, "pooler_output", embeddings)
        return torch.nn.functional.normalize(embeddings.float(), dim=-1).numpy()


def check_known_pairs(clap: Clap) -> None:
    """Raise `ValueError` unless `clap` matches a hiss and a beep with their captions.

    With some versions of transformers all embeddings are nearly equal.
    """
    time = np.arange(5 * 48000) / 48000
    hiss = 0.1 * np.random.default_rng(0).standard_normal(len(time))
    beep = 0.3 * np.sin(2 * np.pi * 1000 * time)
    texts = clap.embed_text(["white noise, a steady hiss", "a pure electronic beep tone"])
    cosines = texts @ clap.embed(np.stack([hiss, beep]).astype(np.float32), 48000).T
    apart = float(texts[0] @ texts[1]) < 0.99
    if not (apart and (np.diag(cosines) > cosines[[0, 1], [1, 0]]).all()):
        raise ValueError(
            "CLAP does not tell white noise from a beep (cosines of captions with waveforms: "
            f"{np.round(cosines, 3).tolist()}; of the two captions: {texts[0] @ texts[1]:.4f}), so its scores are "
            "meaningless here; try other versions of transformers and of the model."
        )


def _frechet(
    embed: Callable[[np.ndarray], np.ndarray],
    sampling_rate: int,
    generated: Mapping[str, Path],
    reference: Mapping[str, Path],
    peak: float | None = None,
) -> float:
    """Compute the Fréchet distance between the embeddings (frames, dimensions) of all frames."""
    if not reference:
        raise ValueError("`reference` is missing; pass the folder of real sounds.")
    return frechet_distance(
        *(
            np.concatenate([np.asarray(embed(_waveform(path, sampling_rate, peak))) for path in sounds.values()])
            for sounds in (generated, reference)
        )
    )


def _waveform(path: Path, sampling_rate: int, peak: float | None = None) -> np.ndarray:
    waveform = read_audio(path, sampling_rate)[0].mean(dim=0)
    return (waveform if peak is None else peak_normalize(waveform, peak)).numpy()


def _files(folder: str | os.PathLike) -> dict[str, Path]:
    paths = audio_files(Path(folder))
    files = {path.stem: path for path in paths}
    if not files:
        raise ValueError(f"{folder} has no audio; pass a folder with {', '.join(AUDIO_SUFFIXES)} files.")
    if len(files) < len(paths):
        raise ValueError(
            f"{folder} has several files of the same name; rename them, because files are matched by name."
        )
    return files


def _pairs(generated: Collection[str], other: Iterable[str], what: str = "reference") -> list[str]:
    missing = sorted(set(generated) - set(other))
    if missing:
        raise ValueError(f"`{what}` lacks {missing[0]} of `generated` ({len(missing)} missing); add them.")
    return sorted(generated)


def _library(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _not_installed(module.partition(".")[0], error) from error


def _not_installed(library: str, error: ImportError | None = None) -> ImportError:
    reason = f" ({error})" if error else ""
    return ImportError(f"This metric needs {library}{reason}: `pip install {library.replace('_', '-')}`.")
