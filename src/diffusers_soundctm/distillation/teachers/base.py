"""A frozen teacher, and how the folder of a family's pipeline is read."""

import importlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from ... import audio
from ...models.unet_2d_condition_ctm import CTMUNet2DConditionModel
from ...pipelines.conditioning import PromptConditioning, conditioning_for
from ...preconditioning import PREDICTION_TYPES
from ...schedulers.scheduling_ctm import CTMScheduler
from ..denoisers import Preconditioning

# A teacher on continuous levels knows all of them; its sampler goes from 0.3 straight to 0. A student ends where the
# noise is 40 dB below the latents, and starts from the sampler's own sigma_max.
CONTINUOUS_SIGMA_MIN = 0.01
MEL_HOP = 160  # samples a mel frame, of all mel families
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


def scheduler_of(config: Mapping[str, Any]) -> CTMScheduler:
    """The `CTMScheduler` with the noise levels and the prediction type of a teacher's scheduler config.

    Raises:
        ValueError: the scheduler's noise process or prediction is none that can be distilled.
    """
    name, prediction_type = config["_class_name"], config.get("prediction_type", "epsilon")
    if name == "CTMScheduler":
        return CTMScheduler.from_config(config)
    if "FlowMatch" in name or "flow" in prediction_type or config.get("use_flow_sigmas"):
        raise ValueError(
            f"The teacher's scheduler is a flow-matching one ({name}, prediction_type {prediction_type!r}), which is "
            "not supported: SoundCTM distils EDM and variance-preserving teachers (epsilon, v_prediction, sample)."
        )
    if name.startswith("CosineDPMSolver") and prediction_type == "v_prediction" and config["sigma_data"] == 1:
        # By name: diffusers' configurations forget what is passed by position.
        return CTMScheduler(
            sigma_min=CONTINUOUS_SIGMA_MIN,
            sigma_max=config["sigma_max"],
            prediction_type="v_prediction",
            beta_schedule=None,
        )
    if name.startswith("EDM") and prediction_type == "epsilon":
        return CTMScheduler(**{key: config[key] for key in ("sigma_min", "sigma_max", "sigma_data", "rho")})
    if "beta_schedule" not in config or prediction_type not in PREDICTION_TYPES[1:]:
        raise ValueError(
            f"The teacher's scheduler {name} with prediction_type {prediction_type!r} is not supported: it has to be "
            "an EDM one, or have betas and predict epsilon, v_prediction or sample."
        )
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"The teacher's scheduler {name} has `rescale_betas_zero_snr`, so its noise level has no upper end; "
            "distil a teacher without."
        )
    return CTMScheduler(prediction_type=prediction_type, **{key: config[key] for key in BETAS if key in config})


class TeacherFamily:
    """How the folder of one family's pipeline is read. To support another one, subclass this and add it to `FAMILIES`.

    A family with another way of conditioning also needs a `PromptConditioning`, see `pipelines/conditioning/`.

    Attributes:
        pipelines: class names in `model_index.json`.
        parts: name in `SoundCTMPipeline` → class, "library.Class", of what is taken over as it is.
        optional: those of them that may be missing.
        network: subfolder of the network, `network_class` its class.
        student_class: the network's SoundCTM student.
        conditioning: how prompts condition it, a key of `pipelines.conditioning.CONDITIONINGS`.
    """

    pipelines: ClassVar[tuple[str, ...]]
    parts: ClassVar[dict[str, str]] = {
        "vae": "diffusers.AutoencoderKL",
        "text_encoder": "transformers.AutoModel",
        "tokenizer": "transformers.AutoTokenizer",
        "vocoder": "transformers.SpeechT5HifiGan",
    }
    optional: ClassVar[tuple[str, ...]] = ()
    network = "unet"
    network_class = "diffusers.UNet2DConditionModel"
    student_class: ClassVar[type] = CTMUNet2DConditionModel
    conditioning = "cross_attention"

    @classmethod
    def load(cls, folder: Path, given: Mapping[str, str | os.PathLike | None]) -> "Teacher":
        """The teacher in `folder`; `given` are folders of parts that replace its own."""
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        scheduler = scheduler_of(config)
        network = _class(cls.network_class).from_pretrained(folder, subfolder=cls.network)
        components = {}
        for name, kind in cls.parts.items():
            source = given.get(name) or folder / name
            if not given.get(name) and not (folder / name).is_dir():
                if name in cls.optional:
                    continue
                remedy = f"pass --{name} FOLDER" if name in ("vae", "text_encoder", "vocoder") else "copy it again"
                raise ValueError(f"`teacher_model` {str(folder)!r} has no {name}; {remedy}.")
            components[name] = cls.load_part(name, kind, source)
        return Teacher(cls, network, scheduler, components)

    @classmethod
    def load_part(cls, name: str, kind: str, source: str | os.PathLike) -> Any:
        if name == "vocoder" and (Path(source) / "config.json").is_file():
            config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
            if config.get("_class_name") == "ISTFTVocoder":
                kind = "diffusers_soundctm.ISTFTVocoder"
        return _class(kind).from_pretrained(source)

    @classmethod
    def student_config(cls, teacher: "Teacher") -> dict[str, Any]:
        """Arguments of the student's class beside the network's: how it is told noise levels."""
        betas = {key: teacher.scheduler.config[key] for key in BETAS}
        prediction_type = teacher.scheduler.config.prediction_type
        return {"prediction_type": prediction_type, "conditioning": cls.conditioning, **betas}


@dataclass
class Teacher:
    """A pretrained model and all that distillation takes from it.

    Attributes:
        family: its adapter.
        network: the denoiser's network.
        scheduler: its noise levels and prediction type.
        components: what the student's pipeline takes over: autoencoder, text encoders, vocoder.
    """

    family: type[TeacherFamily]
    network: torch.nn.Module
    scheduler: CTMScheduler
    components: dict[str, Any] = field(default_factory=dict)

    @property
    def preconditioning(self) -> Preconditioning:
        return Preconditioning.from_scheduler(self.scheduler)

    @cached_property
    def conditioning(self) -> PromptConditioning:
        parts = {k: v for k, v in self.components.items() if k not in ("vae", "vocoder")}
        return conditioning_for(self.network, **parts)

    @property
    def sampling_rate(self) -> int:
        """Samples a second; 16000 for a teacher without vocoder."""
        if self.encodes_waveforms:
            return self.components["vae"].config.sampling_rate
        return self.components["vocoder"].config.sampling_rate if "vocoder" in self.components else 16000

    @property
    def encodes_waveforms(self) -> bool:
        return audio.is_waveform_autoencoder(self.components["vae"])

    @property
    def num_channels(self) -> int:
        return self.components["vae"].config.audio_channels if self.encodes_waveforms else 1

    @property
    def can_decode(self) -> bool:
        return self.encodes_waveforms or "vocoder" in self.components

    def latent_positions(self, num_samples: int) -> tuple[int | None, int, int]:
        """(latent positions of so many samples, or None if they do not fit; positions the network works in; samples a
        position).
        """
        vae = self.components["vae"].config
        if self.encodes_waveforms:
            unit, multiple = math.prod(vae.downsampling_ratios), 1
        else:
            unit = MEL_HOP * 2 ** (len(vae.block_out_channels) - 1)
            multiple = 2 ** (len(self.network.config.block_out_channels) - 1)
        return (None if num_samples % (unit * multiple) else num_samples // unit), multiple, unit

    @property
    def default_num_samples(self) -> int:
        """Length of a training clip: what the network's config says, or 5.12 s for mel networks that do not."""
        size = self.network.config.sample_size
        if self.encodes_waveforms:
            return size * self.latent_positions(0)[2]
        return size * self.latent_positions(0)[2] if isinstance(size, int) else 81920

    def student(self, branch_init: str = "reference", initial_unet: str | os.PathLike | None = None) -> torch.nn.Module:
        """A student that starts from the teacher's weights, or from a student's in the folder `initial_unet`.

        Raises:
            ValueError: the folder holds no student of this teacher and `branch_init`.
        """
        config = self.family.student_config(self)
        student = self.family.student_class.from_teacher(self.network, branch_init=branch_init, **config)
        if initial_unet is None:
            return student
        try:
            initial, loaded = type(student).from_pretrained(
                initial_unet, torch_dtype=torch.float32, output_loading_info=True
            )
            if loaded["missing_keys"]:
                raise ValueError(f"it lacks {loaded['missing_keys'][:3]}")
            student.load_state_dict(initial.state_dict())
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"`initial_unet` {initial_unet} holds no {type(student).__name__} of this teacher with branch_init="
                f"{branch_init!r}: {error}"
            ) from error
        return student

    def parts(self, student: torch.nn.Module) -> dict[str, Any]:
        """The components of the student's pipeline, by name: the student, and the teacher's own parts around it."""
        return {**self.components, self.family.network: student, "scheduler": self.scheduler}


def _class(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)
