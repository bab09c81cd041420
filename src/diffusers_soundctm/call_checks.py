"""Checks of a call's arguments that need no tensors, for the pipelines in PyTorch and in ONNX."""

import logging
import math
import numbers
from collections.abc import Sequence
from typing import Any

from .files import check_unicode

logger = logging.getLogger(__name__)

MAX_AUDIO_LENGTH_IN_S = 30.0  # of models without a limit of their own
MANY_STEPS = 32  # more give a warning
LARGEST_COUNT = 10_000  # of steps and of waveforms per prompt


def check_texts(name: str, value: Any) -> None:
    """Check one prompt or a list of prompts. None passes.

    Raises:
        TypeError: `value` is neither a string nor a list of strings.
        ValueError: the list is empty, or a string is no valid Unicode.
    """
    if value is None:
        return
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"`{name}` is {value!r}; it must be a string or a list of strings.")
    if not texts:
        raise ValueError(f"`{name}` is an empty list; pass at least one string.")
    for text in texts:
        check_unicode(text, f"`{name}`")


def check_negatives(negative_prompt: Any, prompts: int) -> None:
    """Raise `ValueError` if a list of negative prompts has another length than the prompts."""
    if isinstance(negative_prompt, list) and len(negative_prompt) != prompts:
        raise ValueError(
            f"`negative_prompt` has {len(negative_prompt)} strings for {prompts} prompts; pass one string, or one per "
            "prompt."
        )


def check_numbers(
    num_inference_steps: Any,
    num_waveforms_per_prompt: Any,
    guidance_scale: Any,
    nu: Any,
    gamma: Any,
    guidance_scale_range: Sequence[float],
) -> None:
    """Check the numbers of a call. Warns of many steps and of ω outside of `guidance_scale_range`.

    Raises:
        ValueError: a number is of the wrong type or out of its range.
    """
    for name, value in (
        ("num_inference_steps", num_inference_steps),
        ("num_waveforms_per_prompt", num_waveforms_per_prompt),
    ):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 1 <= value <= LARGEST_COUNT:
            raise ValueError(f"`{name}` is {value!r}; it must be an integer from 1 to {LARGEST_COUNT}.")
    if num_inference_steps > MANY_STEPS:
        logger.warning(
            f"`num_inference_steps` is {num_inference_steps}; more than 16 take longer and gain nothing. One step is a "
            "draft, and four are a good final."
        )
    for name, value in (("guidance_scale", guidance_scale), ("nu", nu), ("gamma", gamma)):
        if not is_finite_number(value):
            raise ValueError(f"`{name}` is {value!r}; it must be a finite number.")
    if not 0 <= gamma <= 1:
        raise ValueError(f"`gamma` is {gamma}; choose it in [0, 1], 0 for deterministic sampling.")
    if guidance_scale_range:
        low, high = guidance_scale_range
        if not low <= guidance_scale <= high:
            logger.warning(
                f"`guidance_scale` is {guidance_scale}, outside [{low}, {high}], the range of this model's "
                "training; expect lower quality."
            )


def check_length(audio_length_in_s: Any, longest: float) -> None:
    """Raise `ValueError` unless `audio_length_in_s` is None or a length in seconds of at most `longest`."""
    if audio_length_in_s is None:
        return
    if not (is_finite_number(audio_length_in_s) and 0 < audio_length_in_s <= longest):
        raise ValueError(
            f"`audio_length_in_s` is {audio_length_in_s!r}; it must be more than 0 and at most {longest:g} seconds."
        )


def warn_long(seconds: float, trained: float, sampling_rate: int) -> None:
    """Warn of a waveform that is longer than those of the training."""
    if seconds > trained + 1 / sampling_rate:
        logger.warning(
            f"The audio will be {seconds:.2f} s long, and the model was trained on {trained:.2f} s; expect lower "
            "quality, or pass a shorter `audio_length_in_s`."
        )


def warn_unused_negative(negative_prompt: Any, nu: float) -> None:
    """Warn of a negative prompt that has no effect."""
    if negative_prompt is not None and nu == 1:
        logger.warning("`negative_prompt` has no effect at `nu=1`; use another `nu`, such as 1.5.")


def is_finite_number(value: Any) -> bool:
    """Whether `value` is a finite real number."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
