"""Write a pipeline as a folder of ONNX graphs that runs without torch."""

import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..audio import mel_settings
from ..files import atomic_folder
from ..pipelines.conditioning import CONDITIONINGS, PromptConditioning, latent_channels
from ..pipelines.conditioning.base import MAX_TOKENS
from .graphs import Graph, graphs
from .settings import PRECISIONS, OnnxSettings
from .weights import store_weights

if TYPE_CHECKING:
    import onnx_ir

    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

OPSET = 20
TOKENIZER = "tokenizer.json"
# Protobuf files end at 2 GiB; larger weights go to a file of their own.
LARGEST_FILE = 2**31 - 2**24


def export_onnx(
    pipe: "SoundCTMPipeline", folder: str | os.PathLike, precision: str = "fp32", overwrite: bool = False
) -> Path:
    """Write a pipeline as a folder that `OnnxSoundCTMPipeline` and other runtimes load.

    The folder has one graph per part, the tokenizer, and `soundctm.json`, see `settings.OnnxSettings`. All graphs
    compute in float32, for any batch size and length. `precision` is how the weights are stored. A runtime unpacks them
    when it loads a graph.

    Args:
        pipe: A pipeline in float32 on the CPU, whose prompts are encoded by one text encoder: a UNet, or the
            transformer of the 44.1 kHz SoundCTM.
        folder: Name of the folder, which is made.
        precision: "fp32", "fp16" or "int8".
        overwrite: Whether to replace an existing folder.

    Returns:
        `folder`.

    Raises:
        ValueError: The pipeline cannot be exported, or an argument is wrong.
        ImportError: onnx or onnxscript is not installed.
        OSError: The folder cannot be written.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("Export needs onnx and onnxscript; pip install 'diffusers-soundctm[onnx-export]'.") from error

    check_exportable(pipe, precision)
    folder = Path(folder)
    time_multiple = 1 if pipe.unet is None else 2**pipe.unet.num_upsamplers
    with atomic_folder(folder, overwrite) as temporary:
        parts = graphs(pipe, time_multiple)
        for name, graph in parts.items():
            _write_graph(graph, temporary / f"{name}.onnx", precision)
        max_tokens = _write_tokenizer(pipe, temporary / TOKENIZER)
        settings = _settings(pipe, precision, time_multiple, max_tokens, parts)
        settings.save(temporary)
    return folder


def check_exportable(pipe: "SoundCTMPipeline", precision: str) -> None:
    """Raise `ValueError` unless `export_onnx` can export a pipeline."""
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` is {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    conditioning = pipe.conditioning
    if type(conditioning).embed_tokens is PromptConditioning.embed_tokens:
        kind = next(name for name, found in CONDITIONINGS.items() if isinstance(conditioning, found))
        raise ValueError(
            f"The model's conditioning is {kind!r}, which ONNX export does not support; export a model whose prompts "
            "are encoded by one text encoder, such as the embedded one, AudioLDM, Tango or the 44.1 kHz SoundCTM."
        )
    missing = [name for name in ("denoiser", "vae", *conditioning.encoders) if getattr(pipe, name) is None]
    if missing or not pipe.has_decoder:
        raise ValueError(f"The pipeline has no {' and no '.join(missing or ['vocoder'])}; load all of its components.")
    if not hasattr(pipe.tokenizer, "backend_tokenizer"):
        raise ValueError("The model's tokenizer is not a fast one, which has no `tokenizer.json`; convert it first.")
    modules = [pipe.denoiser, pipe.vae, pipe.text_encoder, *([] if pipe.vocoder is None else [pipe.vocoder])]
    for module in modules:
        if module.dtype != torch.float32 or module.device.type != "cpu":
            raise ValueError(
                f"The {type(module).__name__} is in {module.dtype} on {module.device}; load the pipeline in float32 on "
                "the CPU, and choose `precision` for the files."
            )


@torch.no_grad()
def _write_graph(graph: Graph, file: Path, precision: str) -> None:
    import onnx_ir as ir

    names = list(graph.inputs)
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "torch.export"):
        warnings.simplefilter("ignore")  # of the exporter about its own internals
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            input_names=names,
            output_names=[graph.output],
            dynamic_shapes=tuple(graph.dynamic[name] for name in names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    fixed = {name for name, _ in graph.module.named_buffers()}
    store_weights(program.model.graph, precision, fixed)
    _remove_traces(program.model)
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    ir.save(program.model, file, external_data=f"{file.name}.data" if size > LARGEST_FILE else None)


def _remove_traces(model: "onnx_ir.Model") -> None:
    """Remove what the exporter notes about the code of every node, with paths on this machine."""
    graph = model.graph
    for part in (model, graph, *graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
        part.metadata_props.clear()
    for node in graph:
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()


class _quiet:
    """Hides messages below errors of some loggers while a block runs."""

    def __init__(self, *names: str):
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)


def _write_tokenizer(pipe: "SoundCTMPipeline", file: Path) -> int:
    """Write a tokenizer that cuts and pads as the pipeline does, and return the most tokens of a prompt."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(pipe.tokenizer.backend_tokenizer.to_str())
    max_tokens = min(pipe.tokenizer.model_max_length, MAX_TOKENS)
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=pipe.tokenizer.pad_token_id, pad_token=pipe.tokenizer.pad_token)
    tokenizer.save(str(file))
    return max_tokens


def _settings(
    pipe: "SoundCTMPipeline", precision: str, time_multiple: int, max_tokens: int, parts: dict[str, Graph]
) -> OnnxSettings:
    config = pipe.scheduler.config
    _, _, *width = pipe.latent_shape(1)
    return OnnxSettings(
        files={name: f"{name}.onnx" for name in parts} | {"tokenizer": TOKENIZER},
        precision=precision,
        sampling_rate=pipe.sampling_rate,
        num_channels=pipe.num_channels,
        hop_length=pipe.hop_length,
        frames_per_position=pipe.vae_scale_factor,
        time_multiple=time_multiple,
        latent_channels=latent_channels(pipe.denoiser.config),
        latent_width=width[0] if width else None,
        default_audio_length_in_s=pipe.default_audio_length_in_s,
        max_audio_length_in_s=pipe.max_audio_length_in_s,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        rho=config.rho,
        guidance_scale=3.5,
        guidance_scale_range=tuple(pipe.config.guidance_scale_range),
        max_tokens=max_tokens,
        has_attention_mask="attention_mask" in parts["denoiser"].inputs,
        mel=None if pipe.encodes_waveforms else mel_settings(pipe.vocoder.config),
    )
