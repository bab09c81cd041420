"""Which number formats are precise enough for a jump.

Rounding inside a network is an error of its output F, and the estimate g = c_skip·z + c_out·F has c_out times that
error. |c_out| is at most the standard deviation of the latents for all networks but those that predict epsilon. There
it is σ, up to 84 for AudioLDM: in half precision, the error would be as large as the latents.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .preconditioning import c_out

MAX_JUMP_ERROR = 0.02  # in standard deviations of the latents
TF32 = "tf32"
# Rounding error of F by number format, in standard deviations of F: the largest of the networks of published sizes in
# docs/notebook.md.
OUTPUT_ERRORS: dict[torch.dtype | str, float] = {TF32: 1.0e-3, torch.float16: 2.0e-3, torch.bfloat16: 1.5e-2}
# How much more they count in the network of Stable Audio 3.
STABLE_AUDIO_3_FACTOR = 4.5
# The same for arithmetic in float32 with weights that were rounded once, when they were stored.
STORED_ERRORS: dict[torch.dtype | str, float] = {torch.float16: 7.5e-4, torch.bfloat16: 6.0e-3}

_lock = threading.Lock()
_users = 0
_settings: list[tuple[Any, str, Any, Any]] = []


def jump_error(
    number_format: torch.dtype | str,
    sigma: float,
    prediction_type: str = "edm",
    sigma_data: float = 0.5,
    stored: bool = False,
    factor: float = 1.0,
) -> float:
    """Estimate the rounding error of a jump from noise level σ to 0, in standard deviations of the latents.

    Args:
        number_format: Dtype of the network, or `TF32` for float32 products that a GPU rounds to 10 bits.
        sigma: σ.
        prediction_type: What the network predicts, see `preconditioning`.
        sigma_data: Standard deviation of the latents, for "edm"; that of the others is 1.
        stored: Whether the weights are stored in `number_format`, and arithmetic is in float32.
        factor: See `rounding_factor`.
    """
    errors = STORED_ERRORS if stored else OUTPUT_ERRORS
    scale = c_out(sigma, prediction_type, sigma_data).abs().item()
    scale *= 1.0 if stored else factor
    return errors.get(number_format, 0.0) * scale / (sigma_data if prediction_type == "edm" else 1.0)


def is_precise(
    number_format: torch.dtype | str, sigma: float, prediction_type: str = "edm", factor: float = 1.0
) -> bool:
    """Return whether a jump from σ has a rounding error of at most `MAX_JUMP_ERROR`, see `jump_error`."""
    return jump_error(number_format, sigma, prediction_type, factor=factor) <= MAX_JUMP_ERROR


def rounding_factor(config: Mapping[str, Any]) -> float:
    """How much more rounding errors count in a network with this configuration than in others of its size.

    No other network that can be distilled has the key of Stable Audio 3's.
    """
    return STABLE_AUDIO_3_FACTOR if "use_differential_attention" in config else 1.0


def stored_warning(name: str, stored: torch.dtype, sigma: float, prediction_type: str) -> str | None:
    """Say in one sentence what the rounding of stored weights costs; None if a jump from σ is precise enough.

    Args:
        name: The network's component.
        stored: Dtype of the weights in its files.
        sigma: σ.
        prediction_type: What the network predicts, see `preconditioning`.
    """
    error = jump_error(stored, sigma, prediction_type, stored=True)
    if error <= MAX_JUMP_ERROR:
        return None
    return (
        f"`{name}` predicts {prediction_type} and its weights are stored in {stored}: that rounding changes one step "
        f"from noise level {sigma:.3g} by about {error:.0%} of the latents' standard deviation, though arithmetic is "
        "in float32. Use float32 weights if the model has them."
    )


@contextlib.contextmanager
def full_float32(sigma: float, prediction_type: str) -> Iterator[None]:
    """Turn off TF32, in which NVIDIA GPUs compute float32, while the block runs, if a jump from σ is imprecise in it.

    The setting is the process's. Blocks in other threads may overlap; the last one to end restores it.

    Args:
        sigma: σ.
        prediction_type: What the network predicts, see `preconditioning`.
    """
    global _users, _settings
    if is_precise(TF32, sigma, prediction_type):
        yield
        return
    with _lock:
        _users += 1
        if _users == 1:
            _settings = _tf32_settings()
            for owner, name, _, off in _settings:
                setattr(owner, name, off)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for owner, name, before, _ in _settings:
                    setattr(owner, name, before)


def _tf32_settings() -> list[tuple[Any, str, Any, Any]]:
    """Owner, name, value, and value without TF32 of the two settings of torch."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    try:
        return [(owner, "allow_tf32", owner.allow_tf32, False) for owner in (cudnn, matmul)]
    except RuntimeError:  # the user has set `fp32_precision`, which torch does not let `allow_tf32` read
        return [(owner, "fp32_precision", owner.fp32_precision, "ieee") for owner in (cudnn.conv, matmul)]
