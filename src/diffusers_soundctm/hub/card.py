"""Write the model card of a repo on the Hub."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

_TEMPLATE = Path(__file__).parent / "templates" / "card.md"


def model_card(
    repo_id: str,
    *,
    num_channels: int,
    sampling_rate: int,
    guidance_scale_range: Sequence[float] | None = None,
    license: str | None = None,
    facts: Mapping[str, str] | None = None,
    sounds: Sequence[str] = (),
    adapter_of: str | None = None,
    branch_init: str | None = None,
) -> str:
    """Return the README of a repo.

    Args:
        repo_id: Hub id, as in "user/name".
        num_channels: number of audio channels of the model's output.
        sampling_rate: sampling rate of the model's output, in Hz.
        guidance_scale_range: lowest and highest ω in training; None if unknown.
        license: SPDX id for the metadata block.
        facts: name and value of each row of the training table. A `teacher` that is a Hub id also becomes the
            `base_model` of the metadata block.
        sounds: paths of audio files in the repo; the card shows a player for each.
        adapter_of: the teacher, if the repo holds a LoRA adapter only.
        branch_init: how the student of an adapter was initialized from its teacher; only with `adapter_of`.
    """
    facts = {name: str(value).replace("|", "\\|") for name, value in (facts or {}).items()}
    teacher = adapter_of or facts.get("teacher", "")
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-audio",
        tags=["soundctm", "text-to-audio", "sound-effects", "diffusers"],
        license=license,
    )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", teacher):
        data.base_model = teacher
        if adapter_of:
            data["base_model_relation"] = "adapter"
    card = ModelCard.from_template(
        data,
        template_str=_TEMPLATE.read_text(encoding="utf-8"),
        name=repo_id,
        num_channels=num_channels,
        sampling_rate=sampling_rate,
        guidance_scale_range=guidance_scale_range,
        facts=facts,
        sounds={Path(sound).stem: f"https://huggingface.co/{repo_id}/resolve/main/{sound}" for sound in sounds},
        adapter_of=adapter_of,
        branch_init=branch_init,
    )
    return str(card)
