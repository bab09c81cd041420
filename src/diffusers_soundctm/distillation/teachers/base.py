"""A frozen teacher, and how the folder of a model family is read.

To support another family, copy the shortest module of this package, name the pipeline, its components and the
student's class, and add the new class to `FAMILIES`. A family with another kind of conditioning also needs a
`PromptConditioning`, see `pipelines/conditioning/`.
"""

import importlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.utils import logging

from ... import hub
from ...audio import waveform_hop_length
from ...data.encoders import Encoders
from ...files import is_hidden, read_json
from ...models.unet_2d_condition_ctm import CTMUNet2DConditionModel
from ...pipelines.conditioning import PromptConditioning, conditioning_for
from ...precision import stored_warning
from ...preconditioning import FLOW_TYPES, PREDICTION_TYPES
from ...schedulers.scheduling_ctm import CTMScheduler
from ..denoisers import Preconditioning

logger = logging.get_logger(__name__)

# A teacher on continuous noise levels was trained on all of them, though its own sampler goes from 0.3 straight to 0.
# At this level the noise is 40 dB below the latents.
CONTINUOUS_SIGMA_MIN = 0.01
# A flow teacher's highest level, time 1, is σ = ∞. Stable Audio 3 lays its levels out from ln((1−f)/f) = −6.2 at time
# f = 0.998, which is ln σ = 6.2. The share of the latents in that noise is 1/σ = 0.2 %.
FLOW_SIGMA_MAX = math.exp(6.2)
DEFAULT_NUM_SAMPLES = 81920
# Settings of a flow scheduler that move where its own sampler's levels lie, and not what a level means.
_FLOW_LAYOUT = {
    "shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len",
    "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "time_shift_type",
}  # fmt: skip
_FLOW_SETTINGS = {"num_train_timesteps", "invert_sigmas", "stochastic_sampling"}
_VP_TYPES = tuple(kind for kind in PREDICTION_TYPES if kind not in ("edm", *FLOW_TYPES))
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


class TeacherFamily:
    """How the folder of one family's pipeline is read.

    Attributes:
        pipelines: Class names of the pipeline in `model_index.json`.
        parts: Component of the student's pipeline → its class, "library.Class". They are taken over unchanged.
        optional: Components that may be missing.
        network: Component of the network, in the teacher's folder and in the student's pipeline.
        network_class: Class of the network, "library.Class".
        stock_network: Name of diffusers' class of the network, as its configuration has it.
        text_encoder_types: `model_type` of the text encoder, by which families with the same `stock_network` differ.
        student_class: The network's SoundCTM student.
        conditioning: Kind of conditioning, a key of `pipelines.conditioning.CONDITIONINGS`.
        base_model: Hub id of the checkpoint to use in place of a distilled one.
        text_encoder_source: Hub id of the text encoder, for a folder that lacks it.
        flow_time_factor: `num_train_timesteps` that the scheduler must have, if the pipeline tells the network the
            scheduler's timesteps as they are. The network was trained with times in [0, flow_time_factor].
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[dict[str, str]] = {
        "vae": "diffusers.AutoencoderKL",
        "text_encoder": "diffusers_soundctm.data.encoders.AutoTextEncoder",
        "tokenizer": "transformers.AutoTokenizer",
        "vocoder": "transformers.SpeechT5HifiGan",
    }
    optional: ClassVar[tuple[str, ...]] = ()
    network = "unet"
    network_class = "diffusers.UNet2DConditionModel"
    stock_network: ClassVar[str] = "UNet2DConditionModel"
    text_encoder_types: ClassVar[tuple[str, ...]] = ()
    student_class: ClassVar[type] = CTMUNet2DConditionModel
    conditioning = "cross_attention"
    base_model: ClassVar[str | None] = None
    text_encoder_source: ClassVar[str | None] = None
    flow_time_factor: ClassVar[int | None] = None

    @classmethod
    def matches(cls, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether a folder with these configurations holds a teacher of this family.

        Without `model_index.json`, it is recognized by its components.

        Args:
            configs: Name of a component → its configuration, and `model_index` → `model_index.json`, of what exists.
        """
        if "model_index" in configs:
            return class_name(configs["model_index"]) in cls.pipelines
        encoder = configs.get("text_encoder", {}).get("model_type")
        return (
            class_name(configs.get(cls.network, {})) == cls.stock_network
            and class_name(configs.get("scheduler", {})) != "CTMScheduler"
            and (not cls.text_encoder_types or encoder in cls.text_encoder_types)
        )

    @classmethod
    def load(
        cls, folder: Path, given: Mapping[str, str | os.PathLike | None], allow_distilled: bool = False
    ) -> "Teacher":
        """Load the teacher in `folder`, with the folders `given` in place of some of its components.

        Raises:
            ValueError: A component is missing, the scheduler is not supported, or the checkpoint is a distilled one
                and `allow_distilled` is False.
            OSError: A component is damaged.
        """
        config = cls.scheduler_config(folder)
        reason = None if allow_distilled else cls.distilled_by(folder, config)
        if reason:
            base = f" {cls.base_model}" if cls.base_model else ""
            raise ValueError(
                f"`teacher_model` {str(folder)!r} is distilled already: {reason}. Use the base model{base}, or pass "
                "--allow_distilled_teacher."
            )
        scheduler = cls.load_scheduler(folder)
        network = load_component(cls.network, cls.network_class, cls.network_folder(folder))
        levels, stored = scheduler.config, hub.stored_dtype(cls.network_folder(folder))
        warning = stored_warning(cls.network, stored, levels.sigma_max, levels.prediction_type)
        if warning is not None:
            logger.warning(warning)
        components = {}
        for name, kind in cls.parts.items():
            source = given.get(name) or folder / name
            if not given.get(name) and not source.is_dir():
                if name in cls.optional:
                    continue
                remedy = f"pass --{name} FOLDER" if name in ("vae", "text_encoder", "vocoder") else "copy it again"
                if name == "text_encoder" and cls.text_encoder_source:
                    remedy += (
                        f" with {cls.text_encoder_source} and its tokenizer. If that repo is gated, accept its license "
                        f"at https://huggingface.co/{cls.text_encoder_source} and run `hf auth login`"
                    )
                raise ValueError(f"`teacher_model` {str(folder)!r} has no {name}; {remedy}.")
            components[name] = load_component(name, kind, source)
        teacher = Teacher(cls, network, scheduler, components)
        try:  # what a run reads of the configurations
            _ = teacher.conditioning, teacher.sampling_rate, teacher.num_channels, teacher.default_num_samples
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise OSError(
                f"The components of {folder} do not fit together ({type(error).__name__}: {error}); download or copy "
                "them again."
            ) from error
        return teacher

    @classmethod
    def scheduler_config(cls, folder: Path) -> dict[str, Any]:
        """Content of the teacher's `scheduler_config.json`.

        Raises:
            OSError: The file is missing or damaged.
        """
        hub.check_component(folder / "scheduler", "scheduler")
        return hub.read_config(folder / "scheduler" / "scheduler_config.json")

    @classmethod
    def load_scheduler(cls, folder: Path) -> CTMScheduler:
        """Read the noise levels and the prediction type of the teacher in `folder`.

        Raises:
            ValueError: The scheduler is not supported.
            OSError: Its configuration is missing or damaged.
        """
        config = cls.scheduler_config(folder)
        try:
            return cls.read_scheduler(config)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:  # values of other types, or none
            raise OSError(
                f"{folder / 'scheduler' / 'scheduler_config.json'} is damaged ({type(error).__name__}: {error}); "
                "download or copy it again."
            ) from error

    @classmethod
    def distilled_by(cls, folder: Path, scheduler_config: Mapping[str, Any]) -> str | None:
        """What tells that the checkpoint is a distilled one, or None."""
        return "its scheduler has `stochastic_sampling`" if scheduler_config.get("stochastic_sampling") else None

    @classmethod
    def read_scheduler(cls, config: Mapping[str, Any]) -> CTMScheduler:
        """The teacher's noise levels and prediction type, see `scheduler_of`.

        Raises:
            ValueError: The scheduler is not supported, or the pipeline would tell the network another time than
                `flow_time_factor` times the share of noise.
        """
        factor = config.get("num_train_timesteps", 1000)
        if cls.flow_time_factor not in (None, factor):
            raise ValueError(
                f"The teacher's scheduler has `num_train_timesteps` {factor}, so its pipeline tells the network times "
                f"up to that number; set it to {cls.flow_time_factor}, as {cls.__name__} was trained."
            )
        return scheduler_of(config)

    @classmethod
    def network_folder(cls, folder: Path) -> Path:
        """The folder of the network in the teacher's folder."""
        return folder / cls.network

    @classmethod
    def student_config(cls, teacher: "Teacher") -> dict[str, Any]:
        """Arguments of the student's class that the network's configuration does not hold."""
        scheduler = teacher.scheduler.config
        betas = {key: scheduler[key] for key in _BETAS} if cls.network == "unet" else {}
        return {"prediction_type": scheduler.prediction_type, "conditioning": cls.conditioning, **betas}

    @classmethod
    def new_student(cls, teacher: "Teacher", branch_init: str) -> torch.nn.Module:
        """A student initialized from the teacher, see `Teacher.student`."""
        return cls.student_class.from_teacher(teacher.network, branch_init=branch_init, **cls.student_config(teacher))


def class_name(config: Mapping[str, Any]) -> str | None:
    """The class that a configuration names, without its module."""
    name = config.get("_class_name")
    name = name[-1] if isinstance(name, list) and name else name
    return name if isinstance(name, str) else None


def load_component(name: str, kind: str, source: str | os.PathLike) -> Any:
    """Load a component of class `kind` from its folder or a Hub id, models in float32.

    A folder with nothing but float16 weights is read too.

    Raises:
        OSError: The component is missing or damaged.
    """
    folder = Path(source)
    if folder.is_dir():
        hub.check_component(folder, name)
    try:
        config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        if name == "vocoder" and class_name(config) == "ISTFTVocoder":
            kind = "diffusers_soundctm.ISTFTVocoder"
        weights = [file.name for file in folder.glob("*.safetensors") if not is_hidden(file.name)]
        only_half = weights and all(".fp16." in weight for weight in weights)
        component = _class(kind).from_pretrained(str(source), **({"variant": "fp16"} if only_half else {}))
    except Exception as error:  # a damaged file can fail in any of the libraries that read it
        raise OSError(
            f"The {name} in {source} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]}); "
            "download or copy it again."
        ) from error
    is_half = isinstance(component, torch.nn.Module) and any(p.dtype != torch.float32 for p in component.parameters())
    return component.float() if is_half else component


def _class(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def scheduler_of(config: Mapping[str, Any]) -> CTMScheduler:
    """Return the `CTMScheduler` with the noise levels and the prediction type of a teacher's scheduler.

    Args:
        config: Content of the teacher's `scheduler_config.json`.

    Raises:
        ValueError: The scheduler's noise process or prediction type is not supported.
    """
    name, prediction_type = class_name(config) or "", config.get("prediction_type", "epsilon")
    if name == "CTMScheduler":
        return CTMScheduler.from_config(config)
    if name == "FlowMatchEulerDiscreteScheduler":
        return _flow_scheduler(config)
    if "FlowMatch" in name or "flow" in prediction_type or config.get("use_flow_sigmas"):
        raise ValueError(
            f"The teacher's scheduler is a flow-matching one ({name}, prediction_type {prediction_type!r}); of these, "
            "FlowMatchEulerDiscreteScheduler is supported. Save the teacher with it."
        )
    if name.startswith("CosineDPMSolver") and prediction_type == "v_prediction" and config.get("sigma_data") == 1:
        # By name: diffusers' configurations forget what is passed by position.
        return CTMScheduler(
            sigma_min=CONTINUOUS_SIGMA_MIN,
            sigma_max=config["sigma_max"],
            prediction_type="v_prediction",
            beta_schedule=None,
        )
    if name.startswith("EDM") and prediction_type == "epsilon":
        return CTMScheduler(**{key: config[key] for key in ("sigma_min", "sigma_max", "sigma_data", "rho")})
    if "beta_schedule" not in config or prediction_type not in _VP_TYPES:
        raise ValueError(
            f"The teacher's scheduler {name} with prediction_type {prediction_type!r} is not supported; choose a "
            "teacher with an EDM or FlowMatchEulerDiscrete scheduler, or with one that has betas and predicts epsilon, "
            "v_prediction or sample."
        )
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"The teacher's scheduler {name} has `rescale_betas_zero_snr`, so its highest noise level is infinite; "
            "choose a teacher without it."
        )
    return CTMScheduler(prediction_type=prediction_type, **{key: config[key] for key in _BETAS if key in config})


def _flow_scheduler(config: Mapping[str, Any]) -> CTMScheduler:
    unknown = sorted(key for key in config if key[0] != "_" and key not in _FLOW_LAYOUT | _FLOW_SETTINGS)
    if unknown:
        raise ValueError(
            f"The teacher's FlowMatchEulerDiscreteScheduler has unknown settings ({', '.join(unknown)}), which may "
            "change its noise levels; update diffusers-soundctm, or remove them if they do not."
        )
    return CTMScheduler(
        sigma_min=CONTINUOUS_SIGMA_MIN,
        sigma_max=FLOW_SIGMA_MAX,
        prediction_type="inverted_flow" if config.get("invert_sigmas") else "flow",
        beta_schedule=None,
    )


@dataclass
class Teacher:
    """A pretrained model, and everything that distillation takes from it.

    Attributes:
        family: Its family.
        network: The network of the denoiser.
        scheduler: Its noise levels and prediction type.
        components: What the student's pipeline takes over: autoencoder, text encoders, vocoder.
    """

    family: type[TeacherFamily]
    network: torch.nn.Module
    scheduler: CTMScheduler
    components: dict[str, Any] = field(default_factory=dict)

    @property
    def preconditioning(self) -> Preconditioning:
        """How the network sees noise levels, and what it predicts."""
        return Preconditioning.from_scheduler(self.scheduler)

    @cached_property
    def conditioning(self) -> PromptConditioning:
        """The text encoders, as the network requires them."""
        parts = {name: part for name, part in self.components.items() if name not in ("vae", "vocoder")}
        return conditioning_for(self.network, **parts)

    @cached_property
    def encoders(self) -> Encoders:
        """Turn waveforms and captions into latents and prompt embeddings."""
        vocoder = self.components.get("vocoder")
        return Encoders(self.components["vae"], self.conditioning, None if vocoder is None else vocoder.config)

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the waveforms in Hz; 16000 for a mel model without a vocoder."""
        return self.encoders.sampling_rate

    @property
    def encodes_waveforms(self) -> bool:
        """Whether the autoencoder encodes waveforms, not log-mels."""
        return self.encoders.encodes_waveforms

    @property
    def num_channels(self) -> int:
        """Channels of the waveforms."""
        return self.encoders.num_channels

    @property
    def can_decode(self) -> bool:
        """Whether latents can be decoded to waveforms."""
        return self.encodes_waveforms or "vocoder" in self.components

    def latent_positions(self, num_samples: int) -> tuple[int | None, int, int]:
        """Return how many latent positions a clip has.

        Args:
            num_samples: Length of the clip.

        Returns:
            The latent positions, or None if the length does not fit; the number that the network requires a multiple
            of; the samples per position.
        """
        vae = self.components["vae"].config
        if self.encodes_waveforms:
            unit, multiple = waveform_hop_length(vae), 1
        else:
            unit = self.encoders.front_end.hop_length * 2 ** (len(vae.block_out_channels) - 1)
            multiple = 2 ** (len(self.network.config.block_out_channels) - 1)
        return (None if num_samples % (unit * multiple) else num_samples // unit), multiple, unit

    @property
    def default_num_samples(self) -> int:
        """Length of a training clip by the network's configuration; 5.12 s for mel networks that do not tell it."""
        size = self.network.config.get("sample_size")
        return size * self.latent_positions(0)[2] if isinstance(size, int) else DEFAULT_NUM_SAMPLES

    def student(self, branch_init: str = "zero", initial_unet: str | os.PathLike | None = None) -> torch.nn.Module:
        """A student initialized from the teacher, or from a student of the same teacher.

        Args:
            branch_init: How the new branches of s and ω are initialized: "reference" as in the published code, "zero"
                so that the student equals the teacher.
            initial_unet: Folder of a student whose weights are used.

        Raises:
            ValueError: The folder holds no student of this teacher and `branch_init`.
        """
        student = self.family.new_student(self, branch_init)
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
        """The components of the student's pipeline by name: the student, and the teacher's own parts around it."""
        return {**self.components, self.family.network: student, "scheduler": self.scheduler}
