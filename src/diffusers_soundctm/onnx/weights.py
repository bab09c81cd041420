"""How the weights of an ONNX graph are stored: float32, float16, or int8 with one scale per channel."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir

SMALLEST = 1024  # values; smaller weights stay in float32
# The axis of a weight along which each channel has its own scale, by operator and input. A row of an embedding is a
# channel, too.
CHANNEL_AXIS = {
    ("Conv", 1): 0,
    ("ConvTranspose", 1): 1,
    ("Gather", 0): 0,
    ("Gemm", 1): 0,
    ("MatMul", 1): -1,
    ("Transpose", 0): 0,  # of a linear layer's weight (out, in)
}


def store_weights(graph: "onnx_ir.Graph", precision: str, fixed: Collection[str]) -> None:
    """Replace the weights of a graph by smaller ones and the operators that unpack them to float32.

    Runtimes fold these operators when they load the graph, so that computing costs the same.

    Args:
        graph: A graph whose weights are in float32.
        precision: "fp32" leaves the graph as it is. With "int8", weights whose operator is not in `CHANNEL_AXIS` are
            stored in float16.
        fixed: Names of constants that stay in float32, such as the matrices of a Fourier transform.
    """
    import onnx_ir as ir

    if precision == "fp32":
        return
    first = graph[0]
    for name, value in list(graph.initializers.items()):
        uses = list(value.uses())
        tensor = value.const_value
        large = tensor.dtype == ir.DataType.FLOAT and tensor.size >= SMALLEST and len(tensor.shape) >= 2
        if name in fixed or not uses or not large:
            continue
        weight = tensor.numpy()
        axes = {CHANNEL_AXIS.get((use.node.op_type, use.idx)) for use in uses}
        if precision == "int8" and len(axes) == 1 and None not in axes:
            stored, scale = per_channel_int8(weight, axes.pop())
        else:
            stored, scale = weight.astype(np.float16), None
            if not np.isfinite(stored).all():
                continue
        unpacked = _cast(graph, first, f"{name}_stored", stored)
        if scale is not None:
            factor = ir.Value(name=f"{name}_scale", const_value=ir.tensor(scale, name=f"{name}_scale"))
            graph.register_initializer(factor)
            node = ir.node("Mul", [unpacked, factor])
            graph.insert_before(first, node)
            unpacked = node.outputs[0]
        unpacked.name = f"{name}_unpacked"
        unpacked.shape, unpacked.type = value.shape, value.type
        for use in uses:
            use.node.replace_input_with(use.idx, unpacked)
        del graph.initializers[name]


def _cast(graph: "onnx_ir.Graph", first: "onnx_ir.Node", name: str, array: np.ndarray) -> "onnx_ir.Value":
    import onnx_ir as ir

    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    node = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT})
    graph.insert_before(first, node)
    node.outputs[0].name = f"{name}_float"
    return node.outputs[0]


def per_channel_int8(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Round a weight to int8 with one scale per channel.

    Args:
        weight: float32.
        axis: Axis of the channels.

    Returns:
        The int8 weight, and the float32 scales in a shape that multiplies it.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    scale = np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)
