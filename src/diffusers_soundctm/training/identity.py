"""What must be the same when a run is resumed: its data, and every argument that changes an update."""

import argparse
from functools import singledispatch
from pathlib import Path

import torch

from ..data import Clips
from ..data.batches import TrainingData
from ..data.latents import fingerprint
from ..data.shards import INDEX, ShardedData
from ..data.streams import MemorySource, WaveformData

# Arguments that may differ when a run is resumed. Paths are compared by what they hold: the data and the teacher have
# fingerprints, and the starting weights are in the checkpoint.
_FREE = {
    "config", "preset", "output_dir", "cache_dir", "logging_dir", "resume_from_checkpoint", "captions",
    "dataset_name", "data_files", "audio_column", "caption_column", "max_train_samples", "validation_split",
    "teacher_model", "vae", "text_encoder", "vocoder", "autoencoder", "unet_config", "initial_unet",
    "initial_vocoder", "omega", "recordings", "name", "caption", "model", "teacher", "prior_prompts",
    # The run may be longer, and go on more carefully after steps without a finite gradient.
    "max_train_steps", "learning_rate", "lr_scheduler", "lr_warmup_steps", "max_grad_norm", "mixed_precision",
    "teacher_precision",
    "max_skipped_steps",
    # Memory, reports and uploads.
    "gradient_accumulation_steps", "gradient_checkpointing", "checkpointing_steps", "checkpoints_total_limit",
    "report_to", "tracker_project_name", "validation_prompts", "validation_trajectory_prompts",
    "validation_steps", "validation_num_inference_steps",
    "push_to_hub", "hub_model_id", "hub_token", "hub_private_repo", "hub_license",
}  # fmt: skip


def run_identity(args: argparse.Namespace, **fingerprints: object) -> dict[str, str]:
    """The identity of a run, which its checkpoints hold: all arguments but those that may change, and `fingerprints`.

    Args:
        args: Arguments of the script.
        fingerprints: What the arguments do not say, such as the data's fingerprint.
    """
    arguments = {name: value for name, value in vars(args).items() if name not in _FREE}
    return {name: str(value) for name, value in (arguments | fingerprints).items()}


def weights_fingerprint(network: torch.nn.Module) -> str:
    """A digest of the last tensors of a frozen network, quick for large ones."""
    last = list(network.parameters())[-8:]
    return fingerprint([parameter.flatten()[:1024].tolist() for parameter in last])


@singledispatch
def data_fingerprint(data: object) -> str:
    """A digest of what batches are drawn from: clips with their lengths and captions. A stream has no fingerprint."""
    return "streamed"


@data_fingerprint.register
def _(data: Clips) -> str:
    return fingerprint(data.waveforms, data.captions)


@data_fingerprint.register
def _(data: TrainingData) -> str:
    latents, prompts = data.latents, data.prompts
    if not latents.is_contiguous():  # captions without audio share one latent of zeros
        latents = latents[:1].contiguous()
    arrays = [tensor.view(torch.int16).numpy() for tensor in (latents, prompts.states)]
    return fingerprint(*arrays, prompts.lengths.tolist(), prompts.captions)


@data_fingerprint.register
def _(data: ShardedData) -> str:
    folder = Path(data.folder)
    sizes = sorted((file.name, file.stat().st_size) for file in folder.glob("*.safetensors"))
    return fingerprint((folder / INDEX).read_text(encoding="utf-8"), sizes)


@data_fingerprint.register
def _(data: WaveformData) -> str:
    return data_fingerprint(data.source)


@data_fingerprint.register
def _(data: MemorySource) -> str:
    return data_fingerprint(data.clips)
