"""Rounding error of one jump, in standard deviations of the latents, by family and number format.

python benchmarks/precision.py random --networks "AudioLDM-S, MusicLDM" Tango
python benchmarks/precision.py trained

`random` runs networks of the published sizes with random weights, where published initializations are zero too. A
trained network's output has a standard deviation of about 1, so the output is scaled to that; an error of a share δ of
it moves a jump by |c_out(σ)|·δ. `trained` solves
the trajectories of the embedded model's teacher and takes the one jump of its student, each as they are and as a model
that predicts epsilon, and reads the difference to float32 off the result.

Formats: "autocast" has weights in float32, and matrix products and convolutions in half precision, as in training.
"weights" has the whole network in half precision, as a pipeline with `torch_dtype`. "stored" has weights that were
rounded to half precision once, and all arithmetic in float32. "tf32" rounds the factors of products to 10 bits, as GPUs
do. Products are computed in float32 from rounded factors and rounded afterwards, as hardware does, so that a CPU
without half-precision units measures them too.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from common import print_command, print_table
from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning, TeacherDenoiser
from diffusers_soundctm.distillation.solver import sample_teacher
from diffusers_soundctm.preconditioning import c_in, c_noise, c_out, jump, karras_sigmas, per_sample, vp_log_sigmas
from networks import NETWORKS, Network

ROOT = Path(__file__).parents[1]
CAPTIONS = ["rain on a tin roof", "a dog barks"]
OMEGA = 3.5
HALF = (torch.bfloat16, torch.float16)
PRODUCTS = {
    getattr(torch.ops.aten, name)
    for name in ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product_flash_attention_for_cpu")
}
# Name → dtype of autocast, dtype of the weights, dtype that they were stored in, whether factors are tf32.
FORMATS: dict[str, tuple[torch.dtype | None, torch.dtype | None, torch.dtype | None, bool]] = {
    "tf32": (None, None, None, True),
    "bf16 autocast": (torch.bfloat16, None, None, False),
    "fp16 autocast": (torch.float16, None, None, False),
    "bf16 weights": (None, torch.bfloat16, None, False),
    "fp16 weights": (None, torch.float16, None, False),
    "fp16 stored": (None, None, torch.float16, False),
    "bf16 stored": (None, None, torch.bfloat16, False),
}
NUM_LEVELS = 40  # of train_ctm.py's grid


class RoundedProducts(TorchDispatchMode):
    """Compute products of half-precision factors in float32, and those of float32 ones in tf32 if `tf32`."""

    def __init__(self, tf32: bool = False):
        super().__init__()
        self.tf32 = tf32

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket not in PRODUCTS:
            return function(*args, **kwargs or {})
        half = next((x.dtype for x in args if isinstance(x, torch.Tensor) and x.dtype in HALF), None)

        def factor(x: Any) -> Any:
            if not isinstance(x, torch.Tensor) or not x.is_floating_point():
                return x
            return to_tf32(x) if self.tf32 and x.dtype == torch.float32 else x.float()

        def result(x: Any) -> Any:
            is_float = isinstance(x, torch.Tensor) and x.dtype == torch.float32
            return x.to(half) if half is not None and is_float else x

        return tree_map(result, function(*tree_map(factor, args), **tree_map(factor, kwargs or {})))


def to_tf32(x: torch.Tensor) -> torch.Tensor:
    """Round float32 to 10 bits of mantissa."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@contextlib.contextmanager
def in_format(name: str, network: torch.nn.Module, in_place: bool = False) -> Iterator[torch.nn.Module]:
    """Yield `network`, or a rounded copy of it, inside the arithmetic of a format; "float32" leaves both.

    With `in_place`, `network` itself is rounded, which takes less memory.
    """
    autocast, weights, stored, tf32 = FORMATS.get(name, (None, None, None, False))
    if weights or stored:
        tensors = [x for x in (*network.parameters(), *network.buffers()) if x.is_floating_point()]
        if not in_place:
            copies = {id(x): torch.nn.Parameter(x.clone(), requires_grad=False) for x in tensors}
            network, tensors = deepcopy(network, copies), list(copies.values())
        for tensor in tensors:
            tensor.data = tensor.data.to(weights or stored).to(weights or tensor.dtype)
    cast = torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext()
    with torch.no_grad(), cast, RoundedProducts(tf32):
        yield network


def random_network(family: Network) -> torch.nn.Module:
    """The same random weights in every call."""
    torch.manual_seed(0)
    network = family.make().eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():  # a block or an output that is zero when it is initialized
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def random_rows(
    name: str, family: Network, length: int, levels: Sequence[int], formats: Sequence[str]
) -> list[tuple[str, ...]]:
    """Errors of jumps to σ_min, by noise level, for a network with random weights.

    Args:
        name: Of the network.
        family: The network.
        length: Latent positions.
        levels: Indices of the noise levels on the grid of training.
        formats: Number formats.
    """
    lowest, highest = family.sigma_range
    sigma = karras_sigmas(NUM_LEVELS - 1, lowest, highest)[list(levels)]
    torch.manual_seed(1)
    noise, condition = family.inputs(len(levels), length)
    log_sigmas = None if family.betas is None else vp_log_sigmas(*family.betas)
    timestep = c_noise(sigma, family.prediction_type, log_sigmas)
    deviation = (sigma**2 + family.sigma_data**2).sqrt()  # of the latents with noise
    model_input = noise * per_sample(c_in(sigma, family.prediction_type, family.sigma_data) * deviation, noise)

    def call(network: torch.nn.Module) -> torch.Tensor:
        dtype = next(network.parameters()).dtype
        kwargs = {k: None if v is None else v.to(dtype) for k, v in condition.items()}
        return network(model_input.to(dtype), timestep, **kwargs).sample.float()

    network = random_network(family)
    with in_format("float32", network):
        exact = call(network)
    deviations = exact.flatten(1).std(dim=1)
    # In latents' deviations: c_out·δ times the share 1 − σ_min/σ of the jump.
    factor = c_out(sigma, family.prediction_type, family.sigma_data).abs() / family.sigma_data * (1 - lowest / sigma)
    errors = []
    for kind in formats:
        with in_format(kind, network, in_place=True) as rounded:
            errors.append((call(rounded) - exact).flatten(1).std(dim=1) / deviations * factor)
        if any(FORMATS[kind][1:3]):
            del rounded, network
            network = random_network(family)
    return [
        (name, family.prediction_type, f"{sigma[i]:.4g}", f"{factor[i]:.3g}", *[f"{e[i]:.2g}" for e in errors])
        for i in range(len(levels))
    ]


class AsEpsilon(torch.nn.Module):
    """The embedded model's EDM network as one that predicts epsilon = (z − D)/σ, in its own dtype.

    It is told ln(σ)/4, as the network is.
    """

    def __init__(self, network: torch.nn.Module, settings: Preconditioning):
        super().__init__()
        self.network, self.settings = network, settings

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **kwargs: Any) -> Any:
        sigma = (4 * timestep.float()).exp()
        z = sample.float() * per_sample((sigma**2 + 1).sqrt(), sample)
        model_input, timestep = self.settings.network_input(z, sigma)
        output = self.network(model_input.to(sample.dtype), timestep, **kwargs)
        denoised_ = self.settings.denoised(output.sample, z, sigma)
        output.sample = ((z - denoised_) / per_sample(sigma, z)).to(output.sample.dtype)
        return output


class EpsilonPreconditioning(Preconditioning):
    """That of `AsEpsilon`: of an epsilon network whose timestep is ln(σ)/4."""

    def network_input(self, sample: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Preconditioning.network_input`."""
        return per_sample(c_in(sigma, "epsilon"), sample) * sample, c_noise(sigma, "edm")


def trained_rows(num_steps: int, length: int, formats: Sequence[str]) -> list[tuple[str, ...]]:
    """Errors of the embedded model's jump and of its teacher's trajectory from σ_max, as EDM and as epsilon models."""
    pipe = SoundCTMPipeline.from_embedded()
    teacher = UNet2DConditionModel.from_pretrained(ROOT / "training" / "embedded_teacher" / "unet").eval()
    edm = Preconditioning()
    kwargs = pipe.conditioning.network_kwargs(*pipe.conditioning.encode([*CAPTIONS, ""], torch.device("cpu"))[:2])
    count = len(CAPTIONS)
    rows = [*range(count), *[count] * count]
    guided = {k: None if v is None else v[rows] for k, v in kwargs.items()}
    noise = torch.randn(count, 8, length, 16, generator=torch.Generator().manual_seed(0))
    config = pipe.scheduler.config
    results = []
    for label, settings in {"edm": edm, "epsilon": EpsilonPreconditioning("epsilon")}.items():

        def as_predicted(network: torch.nn.Module, label: str = label) -> torch.nn.Module:
            return network if label == "edm" else AsEpsilon(network, edm).eval()

        def one_jump(
            student: torch.nn.Module, sigma: float = config.sigma_max, settings: Preconditioning = settings
        ) -> torch.Tensor:
            level, where = torch.full((count,), sigma), torch.tensor([[config.sigma_min, OMEGA]]).expand(count, 2)
            dtype = next(student.parameters()).dtype
            inputs = {k: v[:count] if v.dtype == torch.bool else v[:count].to(dtype) for k, v in kwargs.items()}
            z = sigma * noise
            estimate = Denoiser(student, settings)(z, level, timestep_cond=where, **inputs)
            return jump(estimate, z, level, where[:, 0])

        def trajectory(network: torch.nn.Module, settings: Preconditioning = settings) -> torch.Tensor:
            denoise = TeacherDenoiser(network, settings, guided, torch.full((count,), OMEGA))
            return sample_teacher(denoise, noise, num_steps, config.sigma_min, config.sigma_max)

        for what, network, call in (
            ("student, jump from 80", as_predicted(pipe.unet), one_jump),
            (
                "student, jump from 5",
                as_predicted(pipe.unet),
                lambda student, one_jump=one_jump: one_jump(student, 5.0),
            ),
            (f"teacher, {num_steps} Heun steps", as_predicted(teacher), trajectory),
        ):
            with in_format("float32", network) as same:
                exact = call(same)
            errors = []
            for kind in formats:
                with in_format(kind, network) as rounded:
                    errors.append((call(rounded) - exact).std().item() / exact.std().item())
            results.append((label, what, *map("{:.2g}".format, errors)))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    random = commands.add_parser("random")
    random.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    random.add_argument("--length", type=int, default=16, help="latent positions")
    random.add_argument(
        "--levels", type=int, nargs="+", default=[0], choices=range(NUM_LEVELS - 1), metavar="INDEX",
        help="noise levels of the grid of training, 0 for the highest",
    )  # fmt: skip
    random.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    trained = commands.add_parser("trained")
    trained.add_argument("--steps", type=int, default=18, help="Heun steps of the teacher")
    trained.add_argument("--length", type=int, default=32, help="latent positions")
    trained.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    args = parser.parse_args()
    print_command()
    if args.command == "random":
        for name in args.networks:  # a network at a time, since a large network takes minutes
            print_table(
                ("network", "predicts", "sigma", "|c_out|", *args.formats),
                random_rows(name, NETWORKS[name], args.length, args.levels, args.formats),
            )
    else:
        print_table(("predicts", "what", *args.formats), trained_rows(args.steps, args.length, args.formats))


if __name__ == "__main__":
    main()
