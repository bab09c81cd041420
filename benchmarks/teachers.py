"""Memory and computation of a training step of each teacher family at its published size, without its weights.

python benchmarks/teachers.py
python benchmarks/teachers.py --measure

Tensors are fake: they have shapes and no storage, so a billion parameters need no memory. Counted are the student, its
EMA, its gradients and two moments, the teacher, and what autograd keeps of the student's forward pass for one clip
(the jump and the score matching). Not counted: autoencoder and text encoders, which leave the GPU after encoding,
temporary tensors, and what an allocator keeps. `--measure` runs a step of the embedded model's size on this machine and
compares its peak with the same count.
"""

import argparse
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from common import print_command, print_table
from diffusers_soundctm.precision import is_precise
from networks import NETWORKS, Network
from training import ROOT, resident

NUM_SCALES, REUSE = 40, 4  # train_ctm.py's defaults
BYTES = {torch.float32: 4, torch.bfloat16: 2}
STUDENT_BYTES = 20  # float32 student, EMA, gradients and two moments
MEASURED_LENGTH = 128


def kept_bytes(network: torch.nn.Module, family: Network, rows: int, dtype: torch.dtype, length: int | None) -> int:
    """Bytes that autograd keeps for the backward pass of a call on `rows` samples, weights left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    sample, condition = family.inputs(rows, length)
    cast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), cast:
        held = network(sample, torch.full((rows,), 0.5), **condition).sample
    del held
    return sum(kept.values())


def row(name: str, family: Network) -> tuple[str, ...]:
    """Parameters, precision, memory and computation of a family."""
    half = is_precise(torch.bfloat16, family.sigma_range[1], family.prediction_type, family.rounding_factor)
    dtype = torch.bfloat16 if half else torch.float32
    with FakeTensorMode():
        network = family.make()
        count = sum(parameter.numel() for parameter in network.parameters())
        activations = kept_bytes(network, family, 2, dtype, None)
        sample, condition = family.inputs(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(sample, torch.full((1,), 0.5), **condition)
    state = STUDENT_BYTES * count + BYTES[dtype] * count
    # A trajectory: 2 calls of both halves per Heun step, shared by K updates; then forward and backward of two rows.
    calls = (NUM_SCALES - 1) * 4 / REUSE + 6
    return (
        name,
        f"{count / 1e6:.0f}",
        "bfloat16" if half else "float32",
        f"{state / 1e9:.1f}",
        f"{activations / 1e9:.1f}",
        f"{(state + activations) / 1e9:.1f}",
        f"{calls * counter.get_total_flops() / 1e12:.1f}",
    )


def measure() -> tuple[str, ...]:
    """Count and measure an update of the embedded model's network in float32, two rows of 5.12 s."""
    make = lambda: UNet2DConditionModel.from_config(  # noqa: E731
        UNet2DConditionModel.load_config(ROOT / "training" / "embedded_teacher" / "unet")
    )
    width = make().config.cross_attention_dim
    label = make().config.projection_class_embeddings_input_dim
    condition: dict = {"encoder_hidden_states": (16, width)}
    if label:
        condition["class_labels"] = (label,)
    family = Network(make, "edm", (0.002, 80.0), (8, MEASURED_LENGTH, 16), condition)
    with FakeTensorMode():
        network = make()
        count = sum(parameter.numel() for parameter in network.parameters())
        counted = (STUDENT_BYTES + 4) * count + kept_bytes(network, family, 2, torch.float32, None)
    before = resident("VmRSS")
    student, average, teacher = make(), make().requires_grad_(False), make().requires_grad_(False)
    optimizer = torch.optim.RAdam(student.parameters())
    for number in range(2):  # the first makes gradients and moments
        if number:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        start = time.process_time()
        sample, inputs = family.inputs(2)
        with torch.no_grad():
            target = teacher(sample, torch.full((2,), 0.5), **inputs).sample
        (student(sample, torch.full((2,), 0.5), **inputs).sample - target).square().mean().backward()
        optimizer.step()
    peak, seconds = resident("VmHWM") - before, time.process_time() - start
    del average
    return f"{count / 1e6:.1f}", f"{counted / 1e9:.2f}", f"{peak / 1e9:.2f}", f"{peak / counted:.2f}", f"{seconds:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--measure", action="store_true", help="compare the count with a measured step")
    args = parser.parse_args()
    print_command()
    if args.measure:
        print_table(("million parameters", "GB counted", "GB measured", "ratio", "CPU s of a step"), [measure()])
        return
    header = ("network", "million", "precision", "GB of weights and states", "GB of a clip of 10 s", "GB", "TFLOP")
    print_table(header, [row(name, NETWORKS[name]) for name in args.networks])


if __name__ == "__main__":
    main()
