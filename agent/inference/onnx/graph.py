"""A decoder as an ONNX graph: the same operations for all families, under their GGUF names.

    h₁ = h  + [norm] o(attention(rope([norm] q(x)), rope([norm] k(x)), v(x)))     x  = norm(h)
    h₂ = h₁ + [norm] down(activation(gate(y)) * up(y))                            y  = norm(h₁)

One sequence; all tensors are (tokens, width). The embedding is not in it: a few rows are read from
the base's own file for each call. Quantised matrices are MatMulNBits, which multiplies the blocks
as they are; attention is GroupQueryAttention, which writes keys and values where they stay, rotates
them (neighbouring pairs for Llama, as its rows lie in the file) and knows the sliding window.

LoRA is in the graph as inputs, A and B of every projection, with one zero row unless they are
given: another adapter is other inputs of the same session, of whatever rank and on whatever
projections.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.inference.onnx import signature as names
from agent.inference.onnx.packing import BLOCK, Packed, Span
from agent.model.configuration import EMBEDDING, HEAD, Configuration
from artifacts.convert.families import GEMMA3, LLAMA

# Tokens are multiplied as int8 in blocks of 32, as llama.cpp does it.
_INT8_BLOCKS = 4
_CONTRIB = "com.microsoft"
_OPSET, _IR_VERSION = 17, 8
_Shape = list[int | str]
_FLOAT, _INT32, _INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


class Builder:
    """``vectors``: norms and biases by name; ``matrices``: where the others lie in ``location``.
    ``further``: by how many tokens the runtime's attention looks further back than it is told."""

    def __init__(
        self,
        configuration: Configuration,
        vectors: Mapping[str, npt.NDArray[np.float32]],
        matrices: Mapping[str, Packed],
        location: str,
        further: int = 0,
    ) -> None:
        self._configuration = configuration
        self._size = configuration.size
        self._vectors = vectors
        self._matrices = matrices
        self._location = location
        self._further = further
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def build(self) -> onnx.ModelProto:
        self._declare()
        hidden = names.EMBEDDED
        for layer, kind in enumerate(self._configuration.layers):
            hidden = self._layer(layer, kind.window, hidden)
        self._norm("output_norm.weight", hidden, names.HIDDEN)
        wanted = self._node("Gather", names.HIDDEN, names.WANTED, axis=0)
        head = HEAD if HEAD in self._matrices else EMBEDDING
        self._product(head, wanted, names.LOGITS)
        graph = helper.make_graph(
            self._nodes, "decoder", self._inputs, self._outputs, self._initializers
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _declare(self) -> None:
        size = self._size
        self._input(names.EMBEDDED, _FLOAT, ["tokens", size.hidden])
        self._input(names.WANTED, _INT64, ["rows"])
        self._input(names.LAST_POSITION, _INT32, [1])
        self._input(names.TOTAL, _INT32, [])
        self._input(names.LORA_SCALE, _FLOAT, [])
        for kind in sorted({names.kind(one.window) for one in self._configuration.layers}):
            for table in (names.cosines(kind), names.sines(kind)):
                self._input(table, _FLOAT, ["positions", size.head // 2])
        self._output(names.LOGITS, ["rows", size.vocabulary])
        self._output(names.HIDDEN, ["tokens", size.hidden])
        room: _Shape = [1, size.kv_heads, "room", size.head]
        for layer in range(size.layers):
            for what in names.CACHED:
                self._input(names.past(layer, what), _FLOAT, room)
                self._output(names.present(layer, what), room)

    def _layer(self, layer: int, window: int | None, hidden: str) -> str:
        block = f"blk.{layer}."
        normed = self._norm(block + "attn_norm.weight", hidden)
        query = self._heads(block + "attn_q", normed)
        key = self._heads(block + "attn_k", normed)
        value = self._projection(block + "attn_v", normed)
        attended = self._attention(layer, window, query, key, value)
        attended = self._projection(block + "attn_output", attended)
        hidden = self._node(
            "Add", hidden, self._norm_if_there(block + "post_attention_norm.weight", attended)
        )
        normed = self._norm(block + "ffn_norm.weight", hidden)
        gate = self._activation(self._projection(block + "ffn_gate", normed))
        up = self._projection(block + "ffn_up", normed)
        fed = self._projection(block + "ffn_down", self._node("Mul", gate, up))
        return self._node("Add", hidden, self._norm_if_there(block + "post_ffw_norm.weight", fed))

    def _heads(self, name: str, normed: str) -> str:
        """Queries or keys, normed head by head where the family does that."""
        product = self._projection(name, normed)
        norm = f"{name}_norm.weight"
        if norm not in self._vectors:
            return product
        heads = self._reshaped(product, [-1, self._size.head])
        return self._reshaped(self._norm(norm, heads), [-1, self._matrices[f"{name}.weight"].rows])

    def _attention(self, layer: int, window: int | None, query: str, key: str, value: str) -> str:
        kind = names.kind(window)
        batched = [self._node("Unsqueeze", x, self._axis()) for x in (query, key, value)]
        attended = self._name()
        node = helper.make_node(
            "GroupQueryAttention",
            [
                *batched,
                *(names.past(layer, what) for what in names.CACHED),
                names.LAST_POSITION,
                names.TOTAL,
                names.cosines(kind),
                names.sines(kind),
            ],
            [attended, *(names.present(layer, what) for what in names.CACHED)],
            domain=_CONTRIB,
            num_heads=self._size.heads,
            kv_num_heads=self._size.kv_heads,
            do_rotary=1,
            rotary_interleaved=int(self._configuration.family is LLAMA),
            local_window_size=window - self._further if window else -1,
        )
        self._nodes.append(node)
        return self._node("Squeeze", attended, self._axis())

    def _projection(self, name: str, x: str) -> str:
        """The frozen product, its bias, and the adapter's share."""
        matrix = f"{name}.weight"
        product = self._product(matrix, x)
        if f"{name}.bias" in self._vectors:
            product = self._node("Add", product, self._vector(f"{name}.bias"))
        packed = self._matrices[matrix]
        a, b = names.lora_a(matrix), names.lora_b(matrix)
        self._optional_input(a, ["rank", packed.columns], (1, packed.columns))
        self._optional_input(b, [packed.rows, "rank"], (packed.rows, 1))
        low = self._node("Gemm", x, a, transB=1)
        low = self._node("Mul", low, names.LORA_SCALE)
        return self._node("Gemm", low, b, product, transB=1)

    def _product(self, matrix: str, x: str, out: str = "") -> str:
        packed = self._matrices[matrix]
        rows, columns = packed.rows, packed.columns
        if packed.scales is None:
            self._external(matrix, _FLOAT, [rows, columns], packed.data)
            return self._node("Gemm", x, matrix, out=out, transB=1)
        blocks = columns // BLOCK
        integers = [rows, blocks, BLOCK * packed.bits // 8]
        self._external(matrix, TensorProto.UINT8, integers, packed.data)
        self._external(f"{matrix}.scales", _FLOAT, [rows * blocks], packed.scales)
        return self._node(
            "MatMulNBits",
            x,
            matrix,
            f"{matrix}.scales",
            out=out,
            domain=_CONTRIB,
            K=columns,
            N=rows,
            bits=packed.bits,
            block_size=BLOCK,
            accuracy_level=_INT8_BLOCKS,
        )

    def _activation(self, x: str) -> str:
        if self._configuration.family is GEMMA3:
            return self._node("FastGelu", x, domain=_CONTRIB)
        return self._node("Mul", x, self._node("Sigmoid", x))

    def _norm_if_there(self, weight: str, x: str) -> str:
        return self._norm(weight, x) if weight in self._vectors else x

    def _norm(self, weight: str, x: str, out: str = "") -> str:
        return self._node(
            "SimplifiedLayerNormalization",
            x,
            self._vector(weight),
            out=out,
            axis=-1,
            epsilon=self._configuration.norm_epsilon,
        )

    def _reshaped(self, x: str, shape: list[int]) -> str:
        return self._node("Reshape", x, self._constant(np.array(shape, dtype=np.int64)))

    def _axis(self) -> str:
        return self._constant(np.zeros(1, dtype=np.int64))

    def _vector(self, name: str) -> str:
        if all(known.name != name for known in self._initializers):
            self._initializers.append(numpy_helper.from_array(self._vectors[name], name))
        return name

    def _constant(self, value: npt.NDArray[np.generic]) -> str:
        name = self._name()
        self._initializers.append(numpy_helper.from_array(value, name))
        return name

    def _external(self, name: str, kind: int, shape: list[int], span: Span) -> None:
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", self._location),
            ("offset", span.offset),
            ("length", span.size_bytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers.append(tensor)

    def _optional_input(self, name: str, shape: _Shape, default: tuple[int, ...]) -> None:
        self._input(name, _FLOAT, shape)
        zeros = np.zeros(default, dtype=np.float32)
        self._initializers.append(numpy_helper.from_array(zeros, name))

    def _input(self, name: str, kind: int, shape: _Shape) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def _output(self, name: str, shape: _Shape) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, _FLOAT, shape))

    def _node(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or self._name()
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _name(self) -> str:
        return f"{len(self._nodes)}.{len(self._initializers)}"
