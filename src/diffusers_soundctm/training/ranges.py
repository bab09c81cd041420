"""Ranges and choices of the arguments of all training scripts, in one table that is checked before any work."""

import argparse
import math
import re
from collections.abc import Iterator

# Interval notation: [ and ] include the bound, ( and ) exclude it. NaN lies in no interval.
RANGES: dict[str, str] = {
    # data
    "max_train_samples": "[1, inf)",
    "sampling_rate": "[1, inf)",
    "num_samples": "[1, inf)",
    "stream_buffer_size": "[1, inf)",
    "mix_rate": "[0, 1]",
    "shard_size": "[1, inf)",
    "batch_size": "[1, inf)",
    "train_clips": "[1, inf)",
    "test_clips": "[1, inf)",
    "mixture_share": "[0, 1]",
    "num_proc": "[1, inf)",
    "guidance_scale_range": "[0, inf)",
    "audio_length_in_s": "(0, inf)",
    # distillation
    "num_scales": "[2, inf)",
    "trajectory_reuse": "[1, inf)",
    "omega": "[0, inf)",
    "omega_min": "[0, inf)",
    "omega_max": "[0, inf)",
    "caption_dropout": "[0, 1)",
    "denoising_weight": "[0, inf)",
    "target_sigma_min_rate": "[0, 1]",
    "step_count_power": "(-inf, inf)",
    "sampler_rate": "[0, 1]",
    "lora_rank": "[1, inf)",
    "lora_alpha": "(0, inf)",
    # new sounds
    "speed_semitones": "[0, 12]",
    "prior_sounds": "[0, inf)",
    "prior_rate": "[0, 1)",
    "consistency_weight": "[0, inf)",
    # teacher
    "sigma_data": "(0, inf)",
    "sigma_min": "(0, inf)",
    "sigma_max": "(0, inf)",
    "p_mean": "(-inf, inf)",
    "p_std": "(0, inf)",
    # autoencoder and vocoder
    "n_fft": "[2, inf)",
    "hop_length": "[1, inf)",
    "n_mels": "[1, inf)",
    "block_out_channels": "[1, inf)",
    "layers_per_block": "[1, inf)",
    "latent_channels": "[1, inf)",
    "norm_num_groups": "[1, inf)",
    "num_frames": "[1, inf)",
    "kl_weight": "[0, inf)",
    "autoencoder_clips": "[1, inf)",
    "autoencoder_share": "[0, 1]",
    "hidden_size": "[1, inf)",
    "num_layers": "[1, inf)",
    "intermediate_size": "[1, inf)",
    "mel_iterations": "[0, inf)",
    "candidates": "[1, inf)",
    "mel_weight": "[0, inf)",
    "stft_weight": "[0, inf)",
    "frequency_weight": "[0, inf)",
    "adversarial_weight": "[0, inf)",
    "feature_weight": "[0, inf)",
    "adversarial_start": "[0, inf)",
    # optimization
    "train_batch_size": "[1, inf)",
    "gradient_accumulation_steps": "[1, inf)",
    "max_train_steps": "[1, inf)",
    "learning_rate": "[0, 1]",  # of Adam, whose updates have about its size
    "lr_warmup_steps": "[0, inf)",
    "weight_decay": "[0, inf)",
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_weight_decay": "[0, inf)",
    "adam_epsilon": "(0, inf)",
    "max_grad_norm": "(0, inf]",
    "ema_decay": "[0, 1)",
    "seed": "[0, 4294967295]",  # NumPy's seeds have 32 bits
    "max_skipped_steps": "[1, inf)",
    # checkpoints and validation
    "checkpointing_steps": "[1, inf)",
    "checkpoints_total_limit": "[1, inf)",
    "validation_steps": "[1, inf)",
    "validation_num_inference_steps": "[1, inf)",
}

# Choices that the library defines in modules that import torch. A test compares the two.
CHOICES: dict[str, tuple[str, ...]] = {
    "feature_distance": ("full", "half", "output", "l2", "pseudo_huber"),
    "denoising_target": ("data", "teacher"),
    "denoising_levels": ("uniform", "mixed"),
    "match_point": ("zs", "z0"),
    "branch_init": ("reference", "zero"),
    "prediction_type": ("edm", "flow"),
    "optimizer": ("radam", "adamw"),
    # Those of diffusers that need no further arguments.
    "lr_scheduler": ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"),
    "mixed_precision": ("no", "bf16", "fp16"),
    "teacher_precision": ("no", "bf16", "fp16"),
    "report_to": ("tensorboard", "wandb", "trackio"),
}


def range_problems(args: argparse.Namespace) -> Iterator[str]:
    """Yield one sentence for each argument whose value lies outside its range."""
    for name, interval in RANGES.items():
        value = getattr(args, name, None)
        for item in value if isinstance(value, list) else [value]:
            if item is not None and not _contains(interval, item):
                yield f"--{name} is {item}; give {_describe(interval)}"


def _contains(interval: str, value: float) -> bool:
    opening, low, high, closing = _parse(interval)
    above = value > low if opening == "(" else value >= low
    below = value < high if closing == ")" else value <= high
    return above and below


def _describe(interval: str) -> str:
    opening, low, high, closing = _parse(interval)
    if math.isinf(low):
        return "a finite number"
    if math.isinf(high):
        least = f"greater than {low:g}" if opening == "(" else f"of at least {low:g}"
        return f"a number {least}" if closing == "]" else f"a finite number {least}"
    return f"a number in {interval}"


def _parse(interval: str) -> tuple[str, float, float, str]:
    opening, low, high, closing = re.fullmatch(r"([\[(])(.+), (.+)([\])])", interval).groups()
    return opening, float(low), float(high), closing
