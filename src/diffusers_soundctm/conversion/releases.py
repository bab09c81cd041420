"""The authors' released models: from the published files to the components of a pipeline."""

import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, T5EncoderModel

from ..hub import UNREACHABLE, download_files, not_found, read_config
from ..models.transformer_ctm import CTMAudioDiTModel
from ..models.unet_2d_condition_ctm import CTMUNet2DConditionModel
from ..schedulers.scheduling_ctm import CTMScheduler
from .checkpoints import PICKLES, read_checkpoint
from .dit import convert_soundctm_dit
from .first_stages import FIRST_STAGE, convert_audioldm_vae, convert_dac, convert_hifigan
from .folders import check_output_folder, keeps_float32, save_components
from .text_encoders import clap_prefix, convert_clap_text, convert_t5_encoder
from .unet import convert_soundctm_unet

CLAP_MAX_TOKENS = 77  # the release pads and truncates every prompt to this length
_CHECKPOINTS = (*PICKLES, ".safetensors")

# The parts that a file may hold, as the error for a missing one names them.
_NETWORK, _AUDIOLDM, _DAC = "the student (EMA)", "AudioLDM's first stage", "the waveform autoencoder"
_STATISTICS, _CLAP, _T5 = "z_mean and z_std", "CLAP", "FLAN-T5"


@dataclass(frozen=True)
class Release:
    """The files of a release, and the facts about it that its files do not contain.

    Attributes:
        repo_id: repo on the Hub.
        files: patterns of the paths to use, in the repo or in a folder.
        parts: parts that these files must hold.
        config: configuration of the network, with the authors' keys.
        sigma_data: σ_data of the preconditioning.
        guidance_scale_range: lowest and highest ω in training.
        text_encoder: Hub id of the tokenizer, and of the text encoder if the files hold none.
    """

    repo_id: str
    files: tuple[str, ...]
    parts: tuple[str, ...]
    config: Mapping[str, Any]
    sigma_data: float
    guidance_scale_range: tuple[float, float]
    text_encoder: str


@dataclass(frozen=True)
class ReleasedModel:
    """A loaded release, from which a pipeline can be assembled.

    Attributes:
        components: name → component, as `SoundCTMPipeline.from_components` takes them.
        guidance_scale_range: lowest and highest ω in training.
        record: name of the release, its files and their sizes in bytes, and the text encoder.
    """

    components: dict[str, Any]
    guidance_scale_range: tuple[float, float]
    record: dict[str, Any]


_UNET = Release(
    repo_id="Sony/soundctm",
    files=("*ema_0.999_*.pt", "*audioldm-s-full.ckpt"),
    parts=(_NETWORK, _AUDIOLDM),
    config={
        "in_channels": 8,
        "out_channels": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20, 20],  # numbers of heads
        "cross_attention_dim": 1024,
        "norm_num_groups": 32,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    sigma_data=0.25,
    guidance_scale_range=(2.0, 5.0),
    text_encoder="google/flan-t5-large",
)


def _dit(version: str, cond_token_dim: int) -> Release:
    return Release(
        repo_id="koichisaito/soundctm_dit",
        files=(
            f"*ac_{version}_ema_*.pt",
            f"*ac_{version}_summary.jsonl",
            "*z_stats.pth",
            "*gaussiandac/weights.pth",
            "*630k-audioset-best.pt",
        ),
        parts=(_NETWORK, _DAC, _STATISTICS, _CLAP),
        config={
            "io_channels": 64,
            "embed_dim": 1536,
            "depth": 24,
            "num_heads": 24,
            "cond_token_dim": cond_token_dim,
            "global_cond_dim": 1536,
            "project_cond_tokens": False,
            "transformer_type": "continuous_transformer",
        },
        sigma_data=0.5,
        guidance_scale_range=(3.0, 6.0),
        text_encoder="FacebookAI/roberta-base",
    )


RELEASES = {"sony-unet": _UNET, "sony-dit-v1": _dit("v1_iclr", 512), "sony-dit-v2": _dit("v2", 768)}


def convert_release(
    release: str,
    output: str | os.PathLike,
    checkpoint: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    variants: Sequence[str] = ("fp16",),
    **kwargs: Any,
) -> Path:
    """Write a released model as a folder that `SoundCTMPipeline.from_pretrained` loads.

    If an earlier call was interrupted, the call resumes after the last complete component.

    Args:
        release: name of the release, see `load_release`.
        output: folder to write.
        checkpoint: the authors' files, see `load_release`.
        variants: half-precision weights to write besides the released ones, among "fp16" and "bf16".
        **kwargs: further arguments of `load_release`, except `dtype`.

    Returns:
        `output`.

    Raises:
        ValueError: see `load_release`, or `output` holds something else.
        OSError: see `load_release`.
    """
    output = Path(output)
    check_output_folder(output, None, variants)
    model = load_release(release, checkpoint, **kwargs)
    record = {**model.record, "variants": list(variants)}
    save_components(model.components, model.guidance_scale_range, output, record, variants)
    return output


def recognize_release(checkpoint: str | os.PathLike | Sequence[str | os.PathLike] | None, **hub_kwargs: Any) -> str:
    """Return the name of the release that files, folders or Hub ids hold, by the tensors of their network.

    Args:
        checkpoint: as for `load_release`.
        **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: they hold no network of a release, or those of several.
        OSError: a repo on the Hub cannot be reached, or a file is damaged.
    """
    if checkpoint is None:
        raise ValueError(f"Pass the authors' files, or `release=`, one of {', '.join(RELEASES)}.")
    sources = [checkpoint] if isinstance(checkpoint, (str, os.PathLike)) else list(checkpoint)
    found: dict[str, None] = {}
    for source in sources:
        path = Path(source)
        published = [name for name, known in RELEASES.items() if known.repo_id == str(source)]
        if path.exists() or path.suffix in _CHECKPOINTS:
            files = [path] if not path.is_dir() else sorted(f for f in path.rglob("*") if _named_as_network(f))
            found |= dict.fromkeys(name for file in files for name in _releases_of(file))
        elif published:
            found |= dict.fromkeys(published)
        else:
            files = _repo_files(str(source), hub_kwargs)
            found |= dict.fromkeys(name for file in files for name in _named_as_network(file))
    if len(found) != 1:
        given = ", ".join(map(str, sources))
        what = f"the networks of {' and '.join(found)}" if found else "no network of a release"
        raise ValueError(f"`checkpoint` ({given}) holds {what}; pass `release=`, one of {', '.join(RELEASES)}.")
    return next(iter(found))


def _repo_files(repo_id: str, hub_kwargs: Mapping[str, Any]) -> list[Path]:
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(repo_id, revision=hub_kwargs.get("revision"), token=hub_kwargs.get("token"))
    except UNREACHABLE as error:
        raise not_found(repo_id, error) from error
    return list(map(Path, names))


def _named_as_network(file: Path) -> list[str]:
    """Names of the releases in which a network's file has this name."""
    return [name for name, known in RELEASES.items() if fnmatch.fnmatch(f"/{file.name}", known.files[0])]


def _releases_of(file: Path) -> list[str]:
    """Names of the releases whose network a file holds; none for other parts."""
    tensors = read_checkpoint(file)
    if _NETWORK not in _contents(tensors):
        return []
    if not any(name.endswith("preprocess_conv.weight") for name in tensors):
        return ["sony-unet"]
    # v1 and v2 differ in the width of the token that the network attends to.
    widths = {tensor.shape[1] for name, tensor in tensors.items() if name.endswith("to_cond_embed.0.weight")}
    return [name for name, known in RELEASES.items() if {known.config.get("cond_token_dim")} == widths] or [
        name for name in _named_as_network(file) if name != "sony-unet"
    ]


def load_release(
    release: str,
    checkpoint: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    text_encoder: str | os.PathLike | None = None,
    original_config: str | os.PathLike | Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    **hub_kwargs: Any,
) -> ReleasedModel:
    """Load the components of a released model from the authors' files. Tensors stay on disk until they are used.

    Args:
        release: "sony-unet" (16 kHz), "sony-dit-v1" or "sony-dit-v2" (44.1 kHz).
        checkpoint: the authors' files, folders that hold them, Hub ids, or a list of these; None is the release's repo
            on the Hub. The content of a file is recognized by its tensors, not by its name. The training arguments
            (`*summary.jsonl`) are read if they are among the files.
        text_encoder: folder or Hub id of the tokenizer and, for "sony-unet" without `pytorch_model.bin`, of FLAN-T5.
        original_config: configuration of the network, a dictionary or JSON file; None is the released one.
        dtype: dtype of the weights; None keeps that of the files.
        **hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: a file is refused, a part is missing or given twice, or a tensor has another name or shape; the
            message lists them.
        OSError: a repo on the Hub cannot be reached, or a file is damaged.
    """
    if release not in RELEASES:
        raise ValueError(f"`release` is {release!r}; choose among {', '.join(RELEASES)}.")
    known = RELEASES[release]
    config = known.config if original_config is None else original_config
    if not isinstance(config, Mapping):
        config = read_config(Path(config))
    text_encoder = str(text_encoder or known.text_encoder)
    files = find_files(known, checkpoint, **hub_kwargs)
    training = [file for file in files if file.suffix == ".jsonl"]
    parts = _parts([file for file in files if file not in training], known.parts)
    elsewhere = {key: value for key, value in hub_kwargs.items() if key != "revision"}  # it is the checkpoint's
    build = _dit_components if _DAC in known.parts else _unet_components
    components = build(release, parts, config, text_encoder, elsewhere)
    _check_student(components)
    if dtype is not None:
        for component in components.values():
            if isinstance(component, torch.nn.Module):
                _cast(component, dtype)

    arguments = json.loads(training[0].read_text().splitlines()[0]) if training else {}
    noise_levels = {key: arguments[key] for key in ("sigma_min", "sigma_max", "rho") if key in arguments}
    low, high = known.guidance_scale_range
    return ReleasedModel(
        components={
            **components,
            "scheduler": CTMScheduler(sigma_data=arguments.get("sigma_data", known.sigma_data), **noise_levels),
        },
        guidance_scale_range=(arguments.get("w_min", low), arguments.get("w_max", high)),
        record={
            "from": release,
            "files": {file.name: file.stat().st_size for file in files},
            "text_encoder": Path(text_encoder).name if Path(text_encoder).is_dir() else text_encoder,
        },
    )


def _unet_components(
    release: str, parts: Mapping[str, Any], config: Mapping[str, Any], text_encoder: str, elsewhere: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the components of a 16 kHz release, without the scheduler."""
    if _T5 in parts:
        encoder = convert_t5_encoder(parts[_T5])
    else:
        encoder = T5EncoderModel.from_pretrained(text_encoder, dtype=torch.float32, use_safetensors=True, **elsewhere)
    return {
        "vae": convert_audioldm_vae(parts[_AUDIOLDM]),
        "text_encoder": encoder,
        "tokenizer": _tokenizer(text_encoder, elsewhere),
        # The sample size of the released configuration is meaningless. 256 × 16 latents are 10.24 s.
        "unet": convert_soundctm_unet(parts[_NETWORK], {**config, "sample_size": [256, 16]}),
        "vocoder": convert_hifigan(parts[_AUDIOLDM]),
    }


def _dit_components(
    release: str, parts: Mapping[str, Any], config: Mapping[str, Any], text_encoder: str, elsewhere: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the components of a 44.1 kHz release, without the scheduler."""
    tokenizer = _tokenizer(text_encoder, elsewhere)
    tokenizer.model_max_length = CLAP_MAX_TOKENS
    return {
        "vae": convert_dac(parts[_DAC], parts[_STATISTICS]),
        # v1 is conditioned on the projected embedding that CLAP compares with audio, v2 on the pooled state before it.
        "text_encoder": convert_clap_text(parts[_CLAP], projection=release == "sony-dit-v1"),
        "tokenizer": tokenizer,
        "transformer": convert_soundctm_dit(parts[_NETWORK], config),
    }


def _tokenizer(text_encoder: str, elsewhere: Mapping[str, Any]) -> Any:
    # Without the explicit False, transformers asks on the terminal whether to run code of a foreign repo.
    return AutoTokenizer.from_pretrained(text_encoder, trust_remote_code=False, **elsewhere)


def _check_student(components: Mapping[str, Any]) -> None:
    network, vae = components.get("unet") or components.get("transformer"), components["vae"]
    if not isinstance(network, (CTMUNet2DConditionModel, CTMAudioDiTModel)):
        raise ValueError("`checkpoint` holds a teacher, without an embedding of s; pass the student's (EMA) file.")
    if vae.config.latent_channels != network.config.in_channels:
        raise ValueError(
            f"The autoencoder has {vae.config.latent_channels} latent channels, but the network expects "
            f"{network.config.in_channels}; take both from the same release."
        )


def find_files(
    release: Release, checkpoint: str | os.PathLike | Sequence[str | os.PathLike] | None = None, **hub_kwargs: Any
) -> list[Path]:
    """Return the files that `checkpoint` stands for, see `load_release`; download them if needed.

    Raises:
        ValueError: a folder or repo holds none of the release's files.
        OSError: a repo on the Hub cannot be reached.
    """
    if checkpoint is None:
        checkpoint = release.repo_id
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = [checkpoint]
    files = []
    for source in checkpoint:
        path = Path(source)
        if path.is_file() or path.suffix in (*_CHECKPOINTS, ".jsonl"):
            files.append(path)
            continue
        folder = path if path.is_dir() else Path(download_files(str(source), release.files, **hub_kwargs))
        found = sorted(
            file
            for file in folder.rglob("*")
            if file.is_file()
            and any(fnmatch.fnmatch(f"/{file.relative_to(folder).as_posix()}", pattern) for pattern in release.files)
        )
        if not found:
            raise ValueError(f"`checkpoint` {source} has none of {', '.join(release.files)}; pass the files by name.")
        files += found
    return files


def _parts(files: Sequence[Path], needed: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Return part → the tensors of its file. If several files hold a part, the one with the fewest other parts wins."""
    holders: dict[str, list[tuple[int, Path, dict[str, torch.Tensor]]]] = {}
    for file in files:
        tensors = read_checkpoint(file)
        contents = _contents(tensors)
        if not contents:
            raise ValueError(
                f"`checkpoint` {file} holds no part of this release; its first tensor is "
                f"{next(iter(tensors))}. Leave the file out."
            )
        for part in contents:
            holders.setdefault(part, []).append((len(contents), file, tensors))
    missing = [part for part in needed if part not in holders]
    if missing:
        given = ", ".join(str(file) for file in files) or "nothing"
        raise ValueError(f"`checkpoint` ({given}) lacks {', '.join(missing)}; pass the files that hold them too.")
    chosen = {}
    for part, candidates in holders.items():
        candidates.sort(key=lambda candidate: candidate[0])
        if part in needed and len(candidates) > 1 and candidates[0][0] == candidates[1][0]:
            raise ValueError(f"Both {candidates[0][1]} and {candidates[1][1]} hold {part}; pass one of them.")
        chosen[part] = candidates[0][2]
    return chosen


def _contents(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    signs = {
        _NETWORK: any(name.removeprefix(p) in _FIRST for name in tensors for p in ("ctm_unet.", "dit.")),
        _AUDIOLDM: any(name.startswith(FIRST_STAGE) for name in tensors),
        _DAC: "post_conv.bias" in tensors,
        _STATISTICS: {"z_mean", "z_std"} <= tensors.keys(),
        _CLAP: clap_prefix(tensors) is not None,
        _T5: "text_encoder.shared.weight" in tensors,
    }
    return [part for part, present in signs.items() if present]


_FIRST = ("conv_in.weight", "preprocess_conv.weight")


def _cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not keeps_float32(model, name):
            tensor.data = tensor.data.to(dtype)
