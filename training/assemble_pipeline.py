"""Assemble trained components in half precision into a folder that `SoundCTMPipeline.from_pretrained` loads.

python training/assemble_pipeline.py --vae runs/autoencoder/vae --vocoder runs/vocoder/vocoder \
    --unet runs/student_1/unet runs/student/unet --text_encoder all-MiniLM-L6-v2 \
    --guidance_scale_range 2 5 --output runs/embedded
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ConfigMixin
from transformers import AutoModel, AutoTokenizer

from diffusers_soundctm import CTMScheduler, CTMUNet2DConditionModel, ISTFTVocoder, SoundCTMPipeline
from diffusers_soundctm.files import atomic_folder
from diffusers_soundctm.pipelines.known_sounds import KnownSounds, embed_prompts
from diffusers_soundctm.training.config import run_script
from diffusers_soundctm.training.ranges import range_problems
from sources.classes import CLASSES

MAX_BYTES = 95e6
PAIR = " + "  # between the labels of a mixture
EXAMPLES = 6  # captions of a kind
BATCH = 64  # captions encoded at once


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in ("vae", "vocoder", "text_encoder"):
        parser.add_argument(f"--{part}", type=Path, required=True, help=f"folder of the {part}")
    parser.add_argument(
        "--unet", type=Path, nargs="+", required=True, help="folder of the student; weights of several are averaged"
    )
    parser.add_argument(
        "--guidance_scale_range",
        type=float,
        nargs=2,
        required=True,
        metavar=("MIN", "MAX"),
        help="guidance scales that the student was trained for",
    )
    parser.add_argument(
        "--audio_length_in_s", type=float, default=5.12, help="duration of the training clips (%(default)s)"
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        help="folder of the data set, for known_sounds.json: the kinds of its column label with example captions "
        "(by default the model does not say what it knows)",
    )
    parser.add_argument("--sigma_data", type=float, default=0.5, help="as in training (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist yet")
    args = parser.parse_args(argv)
    problems = list(range_problems(args))
    if args.dataset is not None and not args.dataset.is_dir():
        problems.append(f"--dataset {args.dataset} is not a folder")
    if problems:
        parser.error("; ".join(problems))
    if args.output.exists():
        parser.error(f"--output {args.output} exists already; remove it or name another folder")
    return args


@torch.no_grad()
def averaged(networks: list[CTMUNet2DConditionModel]) -> CTMUNet2DConditionModel:
    """The first network, with the mean of all networks' weights."""
    for weights in zip(*(network.parameters() for network in networks), strict=True):
        weights[0].copy_(torch.stack(weights).mean(0))
    return networks[0]


def assemble(args: argparse.Namespace) -> SoundCTMPipeline:
    """The pipeline in half precision.

    Raises:
        ValueError: Weights exceed the range of half precision.
    """
    unet = averaged([CTMUNet2DConditionModel.from_pretrained(folder) for folder in args.unet])
    pipe = SoundCTMPipeline(
        vae=AutoencoderKL.from_pretrained(args.vae),
        text_encoder=AutoModel.from_pretrained(args.text_encoder),
        tokenizer=AutoTokenizer.from_pretrained(args.text_encoder),
        unet=unet,
        scheduler=CTMScheduler(prediction_type=unet.config.prediction_type, sigma_data=args.sigma_data),
        vocoder=ISTFTVocoder.from_pretrained(args.vocoder),
        guidance_scale_range=args.guidance_scale_range,
    )
    unet.register_to_config(sample_size=pipe.latent_shape(round(args.audio_length_in_s * pipe.sampling_rate))[1])
    for name, component in pipe.components.items():
        if isinstance(component, ConfigMixin):
            component.register_to_config(_name_or_path=name)  # not the paths of the training machine
    pipe.to(dtype=torch.float16)
    for name, model in pipe.components.items():
        if isinstance(model, torch.nn.Module):
            too_large = [key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()]
            if too_large:
                raise ValueError(
                    f"{name} has weights beyond half precision: {too_large[:3]}; train it with weight decay."
                )
    return pipe


def captions_by_kind(dataset: Path, split: str) -> dict[str, list[str]]:
    """Distinct captions of each kind in a split, sorted; mixtures are left out.

    Raises:
        OSError: The folder has no such split.
    """
    from pyarrow import parquet

    files = sorted(dataset.glob(f"{split}-*.parquet"))
    if not files:
        raise OSError(f"{dataset} has no {split}-*.parquet; name a folder that prepare_dataset.py wrote.")
    found: dict[str, set[str]] = {}
    for file in files:
        columns = parquet.read_table(file, columns=["label", "caption"]).to_pydict()
        for label, captions in zip(columns["label"], columns["caption"], strict=True):
            if PAIR not in label:
                found.setdefault(label, set()).update(captions)
    return {label: sorted(captions) for label, captions in sorted(found.items())}


def known_sounds(pipe: SoundCTMPipeline, dataset: Path) -> KnownSounds:
    """What the model knows: the kinds of the training split, with a threshold from captions of the test split."""
    plain = {one.label: [*one.nouns, *one.clauses] for one in CLASSES}
    # Of a kind that is not ours, the shortest captions name it and little else.
    kinds = {
        kind: plain.get(kind) or sorted(captions, key=len)[:EXAMPLES]
        for kind, captions in captions_by_kind(dataset, "train").items()
    }
    # The other half is for benchmarks/known_sounds.py.
    heldout = [caption for some in captions_by_kind(dataset, "test").values() for caption in some[::2]]

    def embed(prompts: list[str]) -> torch.Tensor:
        batches = (prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH))
        encoded = (pipe.encode_prompt(batch, do_nu_sampling=False)[:2] for batch in batches)
        return torch.cat([embed_prompts(embeds, mask) for embeds, mask in encoded])

    return KnownSounds.fit(kinds, embed([prompt for prompts in kinds.values() for prompt in prompts]), embed(heldout))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    pipe = assemble(args)
    if args.dataset is not None:
        pipe.known_sounds = known_sounds(pipe.to(dtype=torch.float32), args.dataset)
        pipe.to(dtype=torch.float16)
    with atomic_folder(args.output) as temporary:
        pipe.save_pretrained(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        total = sum(path.stat().st_size for path in files)
        for path in files:
            print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(temporary)}")
        print(f"{total / 1e6:8.2f} MB  in all")
        if total > MAX_BYTES:
            raise ValueError(
                f"The folder exceeds {MAX_BYTES / 1e6:.0f} MB; make the network or the text encoder smaller."
            )


if __name__ == "__main__":
    run_script(main)
