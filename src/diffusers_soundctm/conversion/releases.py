"""The authors' released models, from the files they published to a whole pipeline."""

import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, T5EncoderModel

from .. import hub
from ..models.transformer_ctm import CTMAudioDiTModel
from ..models.unet_2d_condition_ctm import CTMUNet2DConditionModel
from ..schedulers.scheduling_ctm import CTMScheduler
from .checkpoints import PICKLES, read_checkpoint
from .dit import convert_soundctm_dit
from .first_stages import FIRST_STAGE, convert_audioldm_vae, convert_dac, convert_hifigan
from .folders import check_folder, keeps_float32, save_pipeline
from .text_encoders import clap_prefix, convert_clap_text, convert_t5_encoder
from .unet import convert_soundctm_unet

if TYPE_CHECKING:
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

CLAP_MAX_TOKENS = 77  # the release pads and cuts every prompt to as many
_CHECKPOINTS = (*PICKLES, ".safetensors")

# What a file may hold, as it is asked for when it is missing.
_NETWORK, _AUDIOLDM, _DAC = "the student (EMA)", "AudioLDM's first stage", "the waveform autoencoder"
_STATISTICS, _CLAP, _T5 = "z_mean and z_std", "CLAP", "FLAN-T5"


@dataclass(frozen=True)
class Release:
    """What was published, and what its files do not tell.

    Args:
        repo_id: on the Hub.
        files: patterns of the paths that are needed, in the repo or in a folder.
        parts: what these files must hold.
        config: the network's configuration, in the authors' words.
        sigma_data: of the preconditioning.
        guidance_scale_range: ω in training.
        text_encoder: Hub id of the tokenizer, and of the text encoder where the files hold none.
    """

    repo_id: str
    files: tuple[str, ...]
    parts: tuple[str, ...]
    config: Mapping[str, Any]
    sigma_data: float
    guidance_scale_range: tuple[float, float]
    text_encoder: str


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
    """Write a released model as the folder `output`, which `SoundCTMPipeline.from_pretrained` loads.

    Names and shapes of everything are checked before a byte is written. Run again after an interruption, it goes on.

    Args:
        release, checkpoint, kwargs: as `load_release`.
        output: folder, new or an unfinished conversion of the same files.
        variants: half-precision weights to write beside those as released, among "fp16" and "bf16".

    Returns:
        `output`.

    Raises:
        ValueError: see `load_release`, or `output` holds something else.
    """
    output = Path(output)
    check_folder(output, None, variants)
    pipe, record = _load(release, checkpoint, **kwargs)
    save_pipeline(pipe, output, {**record, "variants": list(variants)}, tuple(variants))
    return output


def load_release(
    release: str,
    checkpoint: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    text_encoder: str | os.PathLike | None = None,
    original_config: str | os.PathLike | Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    **hub_kwargs: Any,
) -> "SoundCTMPipeline":
    """A released model as a pipeline, straight from the authors' files; their tensors stay on disk until used.

    Args:
        release: "sony-unet" (16 kHz), "sony-dit-v1" or "sony-dit-v2" (44.1 kHz).
        checkpoint: the authors' files, folders with them, Hub ids, or several of these; None is the Hub repo of the
            release. What a file holds is told by its tensors, not by its name. The training arguments
            (`*summary.jsonl`) are read if they are among the files.
        text_encoder: folder or Hub id of the tokenizer and, for "sony-unet" without `pytorch_model.bin`, of FLAN-T5.
        original_config: the network's configuration, a dict or JSON file, if it is not the released one.
        dtype: of the weights; None leaves them as they are in the files.
        hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: something is missing, twice, refused, or of another name or shape; the message lists it.
        OSError: a Hub repo cannot be reached.
    """
    pipe, _ = _load(release, checkpoint, text_encoder, original_config, **hub_kwargs)
    if dtype is not None:
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                _cast(component, dtype)
    return pipe


def _load(
    name: str, checkpoint: Any, text_encoder: Any = None, original_config: Any = None, **hub_kwargs: Any
) -> tuple["SoundCTMPipeline", dict[str, Any]]:
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

    if name not in RELEASES:
        raise ValueError(f"`release` is {name!r}; choose among {', '.join(RELEASES)}.")
    release = RELEASES[name]
    config = release.config if original_config is None else original_config
    if not isinstance(config, Mapping):
        config = json.loads(Path(config).read_text())
    text_encoder = str(text_encoder or release.text_encoder)
    files = find_files(release, checkpoint, **hub_kwargs)
    training = [file for file in files if file.suffix == ".jsonl"]
    parts = _parts([file for file in files if file not in training], release.parts)
    elsewhere = {key: value for key, value in hub_kwargs.items() if key != "revision"}  # it is the checkpoint's
    tokenizer = AutoTokenizer.from_pretrained(text_encoder, **elsewhere)

    vocoder = None
    if _DAC in release.parts:
        unet = convert_soundctm_dit(parts[_NETWORK], config)
        vae = convert_dac(parts[_DAC], parts[_STATISTICS])
        # v1 was trained with the embedding that CLAP shares with sounds, v2 with the one before it.
        encoder = convert_clap_text(parts[_CLAP], projection=name == "sony-dit-v1")
        tokenizer.model_max_length = CLAP_MAX_TOKENS
    else:
        # The released configuration has a sample size of no meaning; 256 × 16 latents are 10.24 s.
        unet = convert_soundctm_unet(parts[_NETWORK], {**config, "sample_size": [256, 16]})
        vae = convert_audioldm_vae(parts[_AUDIOLDM])
        vocoder = convert_hifigan(parts[_AUDIOLDM])
        if _T5 in parts:
            encoder = convert_t5_encoder(parts[_T5])
        else:
            encoder = T5EncoderModel.from_pretrained(
                text_encoder, dtype=torch.float32, use_safetensors=True, **elsewhere
            )
    if not isinstance(unet, (CTMUNet2DConditionModel, CTMAudioDiTModel)):
        raise ValueError("`checkpoint` holds a teacher, without an embedding of s; pass the student's (EMA) file.")
    if vae.config.latent_channels != unet.config.in_channels:
        raise ValueError(
            f"The autoencoder has {vae.config.latent_channels} latent channels and the network wants "
            f"{unet.config.in_channels}; take both from the same release."
        )

    arguments = json.loads(training[0].read_text().splitlines()[0]) if training else {}
    known = {key: arguments[key] for key in ("sigma_min", "sigma_max", "rho") if key in arguments}
    scheduler = CTMScheduler(sigma_data=arguments.get("sigma_data", release.sigma_data), **known)
    low, high = release.guidance_scale_range
    omega = (arguments.get("w_min", low), arguments.get("w_max", high))
    components = {
        "vae": vae,
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "transformer" if isinstance(unet, CTMAudioDiTModel) else "unet": unet,
        "scheduler": scheduler,
        "vocoder": vocoder,
    }
    pipe = SoundCTMPipeline.from_components(components, guidance_scale_range=omega)
    record = {
        "from": name,
        "files": {file.name: file.stat().st_size for file in files},
        "text_encoder": Path(text_encoder).name if Path(text_encoder).is_dir() else text_encoder,
    }
    return pipe, record


def find_files(
    release: Release, checkpoint: str | os.PathLike | Sequence[str | os.PathLike] | None = None, **hub_kwargs: Any
) -> list[Path]:
    """The files that `checkpoint` stands for, downloaded if need be; see `load_release`.

    Raises:
        ValueError: a folder or repo holds none of the release's files.
        OSError: a Hub repo cannot be reached.
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
        folder = path if path.is_dir() else Path(hub.download_files(str(source), release.files, **hub_kwargs))
        found = sorted(
            file
            for file in folder.rglob("*")
            if file.is_file()
            and any(fnmatch.fnmatch(f"/{file.relative_to(folder).as_posix()}", pattern) for pattern in release.files)
        )
        if not found:
            raise ValueError(
                f"`checkpoint` {source} has none of {', '.join(release.files)}; pass the files themselves."
            )
        files += found
    return files


def _parts(files: Sequence[Path], needed: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    """Part → the tensors of the file it is taken from: the one that holds the least besides."""
    holders: dict[str, list[tuple[int, Path, dict[str, torch.Tensor]]]] = {}
    for file in files:
        tensors = read_checkpoint(file)
        contents = _contents(tensors)
        if not contents:
            raise ValueError(
                f"`checkpoint` {file} holds no part of this release; its first name is {next(iter(tensors))}."
            )
        for part in contents:
            holders.setdefault(part, []).append((len(contents), file, tensors))
    missing = [part for part in needed if part not in holders]
    if missing:
        given = ", ".join(str(file) for file in files) or "nothing"
        raise ValueError(f"`checkpoint` ({given}) lacks {', '.join(missing)}; pass the files with these too.")
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
