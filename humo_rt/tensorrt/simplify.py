"""From the graph that PyTorch's exporter writes to the one that runs: weights laid out, constants folded, nodes fused.

Works on ``onnx_ir`` models in memory. Knows the arithmetic of two functions of the model that ONNX has as single nodes,
RMSNorm and rotary positions; where an exporter writes them in another way they stay as they are, which is slower but
the same. Knows nothing of files. Imported only where onnxscript is installed.
"""

from __future__ import annotations

from typing import Any

import onnx_ir
from onnx_ir.passes import common
from onnx_ir.tensor_adapters import TorchTensor
from onnxscript.optimizer import optimize
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase, rewrite

# Marks an initializer that holds the transpose of the checkpoint's tensor of that name.
TRANSPOSED = ".T"


def simplify(model: onnx_ir.Model, *, fuse: bool) -> None:
    """Rewrite ``model`` in place. ``fuse``: use the single nodes that opset 23 introduced."""
    lay_out_weights(model)
    optimize(model, num_iterations=2)
    if fuse:
        rewrite(model, [FuseRMSNorm.rule(), FuseRotaryEmbedding.rule()])
    common.CommonSubexpressionEliminationPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    _forget_empty_shapes(model)


def lay_out_weights(model: onnx_ir.Model) -> None:
    """Give matrix products their weight transposed, made while it is written, instead of a Transpose node.

    The new initializer is named after the old one, with ``TRANSPOSED`` behind it.
    """
    graph = model.graph
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or weight.name not in graph.initializers or len(weight.shape) != 2:
            continue
        name = weight.name + TRANSPOSED
        if name not in graph.initializers:
            value = onnx_ir.Value(
                name=name,
                shape=onnx_ir.Shape(reversed(weight.shape)),
                type=onnx_ir.TensorType(weight.dtype),
                const_value=_transposed(weight.const_value, name),
            )
            graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(graph.initializers[name])
        graph.remove(node, safe=True)
        if not weight.uses():
            del graph.initializers[weight.name]


def _transposed(tensor: Any, name: str) -> onnx_ir.LazyTensor:
    return onnx_ir.LazyTensor(
        lambda: TorchTensor(tensor.raw.detach().t().contiguous(), name),
        dtype=tensor.dtype,
        shape=onnx_ir.Shape(reversed(tensor.shape)),
        name=name,
    )


class FuseRMSNorm(RewriteRuleClassBase):
    """``x * (1 / sqrt(mean(x^2) + eps)) * weight`` over the last axis, in float32."""

    def pattern(self, op: Any, x: Any, epsilon: Any, weight: Any) -> Any:
        mean = op.ReduceMean(op.Pow(x, 2.0), [-1], keepdims=1, _allow_other_attributes=True)
        return op.Mul(op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon)))), weight)

    def check(self, context: Any, epsilon: onnx_ir.Value, **_: Any) -> MatchResult:
        result = MatchResult()
        if epsilon.const_value is None or epsilon.const_value.size != 1:
            return result.fail("epsilon is not one constant")
        return result

    def rewrite(self, op: Any, x: Any, epsilon: onnx_ir.Value, weight: Any) -> Any:
        return op.RMSNormalization(x, weight, axis=-1, epsilon=epsilon.const_value.numpy().item())


class FuseRotaryEmbedding(RewriteRuleClassBase):
    """Rotation of adjacent channel pairs by the angles of a table (tokens, pairs), which all samples share.

    The node wants one table per sample: each is spread once, at its first use, and found here by the later ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._per_branch: dict[onnx_ir.Value, onnx_ir.Value] = {}

    def pattern(self, op: Any, even: Any, odd: Any, cos: Any, sin: Any, last: Any, shape: Any) -> Any:
        first = op.Unsqueeze(op.Sub(op.Mul(even, cos), op.Mul(odd, sin)), last)
        second = op.Unsqueeze(op.Add(op.Mul(even, sin), op.Mul(odd, cos)), last)
        return op.Reshape(op.Concat(first, second, axis=-1), shape, _allow_other_attributes=True)

    def check(self, context: Any, even: onnx_ir.Value, odd: onnx_ir.Value, **_: Any) -> MatchResult:
        first, second = _half_of_pairs(even), _half_of_pairs(odd)
        result = MatchResult()
        if first is None or second is None or first[0] is not second[0] or (first[1], second[1]) != (0, 1):
            return result.fail("the factors are not the two halves of channel pairs")
        return result

    def rewrite(self, op: Any, even: onnx_ir.Value, cos: onnx_ir.Value, sin: onnx_ir.Value, **_: Any) -> Any:
        pairs, _half = _half_of_pairs(even)
        x = pairs.producer().inputs[0]
        for table in (cos, sin):
            if table not in self._per_branch:
                sizes = op.Concat(op.Shape(x, start=0, end=1), op.Constant(value_ints=[1, 1]), axis=0)
                self._per_branch[table] = op.Expand(table, sizes)
        return op.RotaryEmbedding(x, self._per_branch[cos], self._per_branch[sin], interleaved=1)


def _half_of_pairs(value: onnx_ir.Value) -> tuple[onnx_ir.Value, int] | None:
    """The pairs (..., channels / 2, 2) that ``value`` holds one half of, and which half."""
    squeeze = value.producer()
    cut = squeeze.inputs[0].producer() if squeeze is not None and squeeze.op_type == "Squeeze" else None
    if cut is None or cut.op_type != "Slice" or cut.inputs[0].producer() is None:
        return None
    pairs, start = cut.inputs[0], cut.inputs[1].const_value
    reshaped = pairs.producer().op_type == "Reshape" and pairs.shape is not None and pairs.shape[-1] == 2
    return (pairs, int(start.numpy().item())) if reshaped and start is not None else None


def _forget_empty_shapes(model: onnx_ir.Model) -> None:
    """Drop inferred shapes that claim an empty tensor: what inference makes of pooling over sizes it does not know."""
    for value in (value for node in model.graph for value in node.outputs):
        if value.shape is not None and 0 in value.shape.dims:
            value.shape = None
