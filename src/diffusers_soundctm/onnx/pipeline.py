"""Text to audio from an exported folder, with onnxruntime and numpy only."""

import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..call_checks import (
    check_length,
    check_negatives,
    check_numbers,
    check_texts,
    warn_long,
    warn_unused_negative,
)
from . import sampling
from .noise import NoiseGenerator
from .settings import OnnxSettings

logger = logging.getLogger(__name__)

# What `SoundCTMPipeline` can do and exported graphs cannot: they have no gradients and no encoder of audio.
_IN_PYTORCH_ONLY = {
    "initial_audio_waveforms": "the folder has no encoder of audio",
    "initial_audio_sampling_rate": "the folder has no encoder of audio",
    "strength": "the folder has no encoder of audio",
    "load_lora_weights": "weights are fixed when a model is exported; load the adapter before the export",
    "fuse_lora": "weights are fixed when a model is exported; load the adapter before the export",
    "encode_audio": "the folder has no encoder of audio",
    "save_pretrained": "an exported folder is complete; copy it",
    "to": "its graphs run on the CPU",
}
TENSORS = ("latents", "previous_latents")  # that a callback may get


@dataclass
class OnnxPipelineOutput:
    """Audio, and by how much it was turned down.

    Attributes:
        audios: Waveforms (batch, channels, samples) within ±1, or latents z_0; float32.
        turned_down_db: By how many dB each waveform was scaled down because its peak exceeded full scale, 0 for most.
            None with latents.
    """

    audios: np.ndarray
    turned_down_db: list[float] | None = None


class OnnxSoundCTMPipeline:
    """`SoundCTMPipeline` for generation, from a folder that `soundctm export` wrote. It does not import torch.

    The same seed gives the same sound as in PyTorch, up to rounding. Several threads may use one pipeline.

    Args:
        folder: The exported folder.
        num_threads: Threads of a graph; None uses all cores.

    Raises:
        OSError: The folder is no exported model, is of another format, or lacks a file.
        ImportError: onnxruntime or tokenizers is not installed.
    """

    def __init__(self, folder: str | os.PathLike, num_threads: int | None = None):
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(f"{error}; pip install 'diffusers-soundctm[onnx]'.") from error

        folder = Path(folder)
        self.settings = OnnxSettings.load(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        options.log_severity_level = 3
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")  # weights fill no arena

        def load(name: str) -> Any:
            file = folder / self.settings.files[name]
            try:
                return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime has no common class for its errors
                raise OSError(f"{file} cannot be loaded ({error}); export or copy the model again.") from error

        # One after the other: a graph needs most memory while it is loaded.
        self._sessions = {name: load(name) for name in self.settings.files if name != "tokenizer"}
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / self.settings.files["tokenizer"]))
        except Exception as error:  # tokenizers raises `Exception` itself
            raise OSError(f"The tokenizer of {folder} is damaged ({error}); export the model again.") from error
        self._tokenizing = threading.Lock()

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, **kwargs: Any) -> "OnnxSoundCTMPipeline":
        """Load an exported folder; arguments as in the constructor."""
        return cls(folder, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in _IN_PYTORCH_ONLY:
            raise AttributeError(f"An exported model has no `{name}`: {_IN_PYTORCH_ONLY[name]}. Use SoundCTMPipeline.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the waveforms, in Hz."""
        return self.settings.sampling_rate

    @property
    def default_audio_length_in_s(self) -> float:
        """Length of the training, in seconds."""
        return self.settings.default_audio_length_in_s

    @property
    def max_audio_length_in_s(self) -> float:
        """Longest waveform that a call generates, in seconds."""
        return self.settings.max_audio_length_in_s

    def latent_shape(self, num_samples: int) -> tuple[int, ...]:
        """Shape of the latents of a waveform of `num_samples` samples, without the batch dimension."""
        return self.settings.latent_shape(num_samples)

    def encode_prompt(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embed prompts.

        Returns:
            The embeddings (B, L, width) or (B, width), and the mask of tokens, boolean (B, L).
        """
        with self._tokenizing:
            encodings = self._tokenizer.encode_batch(list(prompts))
        for prompt, encoding in zip(prompts, encodings, strict=True):
            if encoding.overflowing:
                cut = self._tokenizer.decode(encoding.overflowing[0].ids)
                logger.warning(
                    f"The text encoder reads {self.settings.max_tokens} tokens of the prompt {prompt[:40]!r} …; it "
                    f"ignores {cut!r}."
                )
        ids, mask = (np.array([getattr(e, name) for e in encodings], np.int64) for name in ("ids", "attention_mask"))
        return self._run("text_encoder", input_ids=ids, attention_mask=mask), mask.astype(bool)

    def denoise(
        self,
        latents: np.ndarray,
        sigma: float,
        target_sigma: float,
        guidance_scale: float,
        prompt_embeds: np.ndarray,
        attention_mask: np.ndarray,
    ) -> np.ndarray:
        """Estimate z_0 from z_t, float32 in the shape of `latents`.

        Args:
            latents: z_t, float32 (B, C, time, width) or (B, C, time).
            sigma: Noise level t.
            target_sigma: Noise level s that the jump leads to.
            guidance_scale: ω.
            prompt_embeds, attention_mask: As `encode_prompt` returns them.
        """
        values = {"sigma": sigma, "target_sigma": target_sigma, "guidance_scale": guidance_scale}
        inputs = {name: np.full(len(latents), value, np.float32) for name, value in values.items()}
        if self.settings.has_attention_mask:
            inputs["attention_mask"] = attention_mask
        return self._run("denoiser", latents=latents, prompt_embeds=prompt_embeds, **inputs)

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        """Decode latents z_0 to waveforms (B, channels, samples), float32. One at a time, which is faster."""
        waveforms = []
        for one in np.split(latents, len(latents)):
            waveform = self._run("decoder", latents=one)
            if "vocoder" in self._sessions:
                waveform = self._run("vocoder", mel=waveform)[:, None]
            waveforms.append(waveform)
        return np.concatenate(waveforms)

    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        return self._sessions[graph].run(None, inputs)[0]

    def __call__(
        self,
        prompt: str | list[str],
        audio_length_in_s: float | None = None,
        num_inference_steps: int = 1,
        guidance_scale: float | None = None,
        nu: float = 1.0,
        gamma: float = 0.0,
        negative_prompt: str | list[str] | None = None,
        num_waveforms_per_prompt: int = 1,
        sigmas: Sequence[float] | None = None,
        generator: Any = None,
        latents: np.ndarray | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **kwargs: Any,
    ) -> OnnxPipelineOutput | tuple[np.ndarray]:
        """Generate audio from text. Arguments are those of `SoundCTMPipeline`, with arrays in place of tensors.

        Args:
            prompt: Description of the audio, or one per result.
            audio_length_in_s: Length in seconds; by default that of `latents`, else of the training.
            num_inference_steps: Number of steps.
            guidance_scale: ω; by default that of the model.
            nu: ν, weight of the conditional student against the unconditional one.
            gamma: γ in [0, 1], the amount of fresh noise per step.
            negative_prompt: Replaces the empty prompt in the ν mix.
            num_waveforms_per_prompt: Number of waveforms per prompt.
            sigmas: Decreasing noise levels, in place of `num_inference_steps`.
            generator: A `NoiseGenerator` or a `torch.Generator`, or a list with one per waveform.
            latents: Starting noise of unit variance, (batch, *pipe.latent_shape(num_samples)).
            output_type: "np" for waveforms, "latent" for latents z_0.
            return_dict: Whether to return an `OnnxPipelineOutput` instead of a tuple.
            callback_on_step_end: Called after each step as `callback(call, step, sigma, tensors)`; it returns the
                latents that it changed in a dictionary. `call._interrupt = True` ends the call.
            callback_on_step_end_tensor_inputs: Of "latents" and "previous_latents".
            kwargs: Other arguments of `SoundCTMPipeline` are refused with the reason.

        Returns:
            The audio in `.audios`, or as the only entry of a tuple.

        Raises:
            ValueError: An argument is wrong, or works in PyTorch only; the message names it.
            TypeError: An argument has the wrong type, or is unknown.
        """
        _refuse(kwargs)
        settings = self.settings
        guidance_scale = settings.guidance_scale if guidance_scale is None else guidance_scale
        check_texts("prompt", prompt)
        check_texts("negative_prompt", negative_prompt)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if prompts is None:
            raise ValueError("`prompt` is None; pass a prompt or a list of prompts.")
        check_negatives(negative_prompt, len(prompts))
        check_numbers(
            num_inference_steps, num_waveforms_per_prompt, guidance_scale, nu, gamma, settings.guidance_scale_range
        )
        warn_unused_negative(negative_prompt, nu)
        check_length(audio_length_in_s, settings.max_audio_length_in_s)
        if output_type not in ("np", "latent"):
            raise ValueError(f"`output_type` is {output_type!r}; choose 'np' or 'latent'.")
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise TypeError(f"`callback_on_step_end` is {callback_on_step_end!r}; pass a function.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(TENSORS)
        if unknown:
            raise ValueError(f"`callback_on_step_end_tensor_inputs` has {sorted(unknown)}; choose from {TENSORS}.")
        batch_size = len(prompts) * num_waveforms_per_prompt
        generators = _generators(generator, batch_size)
        latents = None if latents is None else self._check_latents(latents, batch_size, audio_length_in_s)
        num_samples = self._num_samples(audio_length_in_s, latents)

        # 1. Noise levels
        if sigmas is None:
            sigmas = sampling.karras_sigmas(num_inference_steps, settings.sigma_min, settings.sigma_max, settings.rho)
        else:
            sigmas = sampling.check_sigmas(sigmas, settings.sigma_min, settings.sigma_max)
        levels = sampling.levels(sigmas, settings.sigma_min, gamma)

        # 2. Prompt, with the negative one first, as in PyTorch
        negatives = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * len(prompts)
        texts = prompts if nu == 1 else [*negatives, *prompts]
        embeds, mask = (np.repeat(v, num_waveforms_per_prompt, axis=0) for v in self.encode_prompt(texts))

        # 3. Latents
        shape = (batch_size, *self.latent_shape(num_samples))
        latents = (_randn(shape, generators) if latents is None else latents) * levels.sigmas[0]

        # 4. Jumps from each noise level to the next
        call = SimpleNamespace(
            _interrupt=False,
            num_timesteps=len(levels),
            guidance_scale=guidance_scale,
            nu=nu,
            gamma=gamma,
            settings=settings,
        )
        for i, (sigma, target_sigma) in enumerate(zip(levels.sigmas, levels.target_sigmas, strict=False)):
            twice = latents if nu == 1 else np.concatenate([latents, latents])
            denoised = self.denoise(twice, sigma, target_sigma, guidance_scale, embeds, mask)
            if nu != 1:  # G is affine in g, so that mixing g equals mixing the network's outputs
                unconditional, conditional = np.split(denoised, 2)
                denoised = unconditional + np.float32(nu) * (conditional - unconditional)
            previous_latents = latents
            latents = sampling.jump(denoised, latents, sigma, target_sigma)
            if gamma > 0 and i + 1 < len(levels):
                latents = latents + levels.noise_sigmas[i] * _randn(latents.shape, generators)
            if callback_on_step_end is not None:
                tensors = {"latents": latents, "previous_latents": previous_latents}
                tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                changed = callback_on_step_end(call, i, sigma, tensors) or {}
                latents = np.asarray(changed.get("latents", latents), np.float32)
            if call._interrupt:
                break

        # 5. Waveforms
        audios, turned_down_db = latents, None
        if output_type != "latent":
            audios, turned_down_db = _limited(self.decode_latents(latents)[..., :num_samples])
        return OnnxPipelineOutput(audios, turned_down_db) if return_dict else (audios,)

    def _num_samples(self, audio_length_in_s: float | None, latents: np.ndarray | None) -> int:
        """Samples per waveform of a call. Warns beyond the training length."""
        settings = self.settings
        if audio_length_in_s is None and latents is not None:
            samples = latents.shape[2] * settings.samples_per_position
        else:
            seconds = settings.default_audio_length_in_s if audio_length_in_s is None else audio_length_in_s
            samples = max(round(seconds * settings.sampling_rate), 1)
        warn_long(samples / settings.sampling_rate, settings.default_audio_length_in_s, settings.sampling_rate)
        return samples

    def _check_latents(self, latents: Any, batch_size: int, audio_length_in_s: float | None) -> np.ndarray:
        latents = np.asarray(latents, np.float32)
        seconds = 0 if audio_length_in_s is None else audio_length_in_s
        channels, time, *width = self.latent_shape(max(round(seconds * self.sampling_rate), 1))
        multiple = self.settings.time_multiple
        fits = latents.ndim == 3 + len(width) and latents.shape[:2] == (batch_size, channels)
        fits = fits and list(latents.shape[3:]) == width and latents.shape[2] > 0 and latents.shape[2] % multiple == 0
        if not fits or (audio_length_in_s is not None and latents.shape[2] != time):
            wanted = f"a multiple of {multiple}" if audio_length_in_s is None else str(time)
            shape = ", ".join(map(str, (batch_size, channels, wanted, *width)))
            raise ValueError(f"`latents` has shape {latents.shape}; this call needs ({shape}).")
        if not np.isfinite(latents).all():
            raise ValueError("`latents` contains NaN or infinite values; pass finite unit-variance noise.")
        return latents


def _refuse(kwargs: dict[str, Any]) -> None:
    """Raise an error for arguments of a call that an exported model does not have. None is a default and passes."""
    for name, value in kwargs.items():
        if name in _IN_PYTORCH_ONLY and value is not None:
            raise ValueError(f"An exported model has no `{name}`: {_IN_PYTORCH_ONLY[name]}. Use SoundCTMPipeline.")
        if name in ("prompt_embeds", "negative_prompt_embeds", "attention_mask", "negative_attention_mask"):
            if value is not None:
                raise ValueError(f"An exported model takes no `{name}`; pass `prompt`, or use SoundCTMPipeline.")
        elif name not in _IN_PYTORCH_ONLY:
            raise TypeError(f"`{name}` is no argument of the pipeline; see the call of SoundCTMPipeline.")


def _generators(generator: Any, batch_size: int) -> list[Any]:
    """One generator, or one per waveform. torch's own can only be passed by a program that has imported torch."""
    generators = generator if isinstance(generator, list) else [generator]
    known = (NoiseGenerator, *([sys.modules["torch"].Generator] if "torch" in sys.modules else []))
    if generator is not None and not all(isinstance(one, known) for one in generators):
        raise TypeError(
            f"`generator` is {generator!r}; pass a `NoiseGenerator` or a `torch.Generator`, or a list of them."
        )
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(
            f"`generator` is a list of {len(generator)}, but the call generates {batch_size} waveforms; pass one "
            "generator per waveform."
        )
    return [NoiseGenerator(secrets.randbits(32))] if generator is None else generators


def _randn(shape: tuple[int, ...], generators: list[Any]) -> np.ndarray:
    """Standard normal noise, float32: from one generator, or one row from each of several."""
    if len(generators) > 1:
        return np.concatenate([_randn((1, *shape[1:]), [one]) for one in generators])
    (one,) = generators
    if isinstance(one, NoiseGenerator):
        return one.randn(shape)
    return sys.modules["torch"].randn(shape, generator=one, device=one.device).cpu().numpy()


def _limited(waveforms: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Scale waveforms whose peak exceeds 1 down as a whole, and say by how many dB each was."""
    peaks = np.maximum(np.abs(waveforms).max(axis=(1, 2), keepdims=True), np.float32(1))
    return waveforms / peaks, (20 * np.log10(peaks.ravel())).tolist()
