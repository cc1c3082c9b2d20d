"""Fuses what a language model computes in each layer into onnxruntime's own operators: norms, rotation and attention.

PyTorch exports a layer as some seventy operators, most of which take longer to start than to compute, and onnxruntime's
own fusions know other spellings. The values stay what they were, up to rounding, whatever the batch: also those of
prompts that are filled up on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from cdk_inference.model.building.graph.graph import (
    CONTRIB,
    add_weight,
    bodies,
    captured,
    opset,
    replace_nodes,
    sort_nodes,
    use_contrib,
)
from cdk_inference.model.building.graph.lookups import Lookups, attribute
from cdk_inference.model.building.graph.norms import fused_norms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import DTypeLike

_SWAPPED = [0, 2, 1, 3]  # tokens and heads
_CACHE_AXES = 4  # batch, heads, tokens and size
_LEAST_OPSET = 15  # where `Shape` can give some sizes alone
_LOWEST = np.finfo(np.float32).min


def fuse_attention(model: onnx.ModelProto) -> int:
    """Fuse attention to a cache in place, with the rotations and the norms around; return how many.

    Attention is fused if its keys and values are those of a cache and those of new tokens, in float32. How heads are
    grouped, and which tokens are padding, is as the model says. Without such attention, nothing changes.
    Afterwards, no token sees later ones, whatever the mask says. And a batch of several items reads one token at a time
    if its caches hold some. So the two graphs must be compared on what a driver asks.

    Raises
    ------
    ModelBuildError
        If something between the cache and the attention depends on both.
    """
    if opset(model) < _LEAST_OPSET:
        return 0
    graph = _Graph(model.graph)
    found = [each for node in model.graph.node if (each := graph.attention(node)) is not None]
    if not found:
        return 0
    for each in found:
        graph.fuse(each)
    model.graph.node.extend(graph.added)
    replace_nodes(model.graph, graph.replaced | fused_norms(graph))
    sort_nodes(model.graph)
    _drop_unused(model.graph)
    use_contrib(model)
    return len(found)


@dataclass(frozen=True)
class _Heads:
    """The heads of queries, keys or values: of shape (batch, tokens, heads, size), and the angles they are rotated by.

    Attributes
    ----------
    name
        The value.
    angles
        The angles of shape (batch or 1, tokens, half of the size), if there are any.
    factor
        The factor of their cosines and sines.
    """

    name: str
    angles: str = ""
    factor: float = 1.0


@dataclass(frozen=True)
class _Attention:
    """An attention, by the values that it reads and writes.

    Attributes
    ----------
    query, key, value
        The heads of the new tokens.
    past
        The caches of keys and values.
    concats
        The nodes that append to them.
    mask
        The value that is added to the likeness of each query and key.
    heads, groups
        Number of heads of queries, and of those of keys.
    scale
        The factor of the likeness.
    swap
        The node that puts the heads of each token side by side.
    """

    query: _Heads
    key: _Heads
    value: _Heads
    past: tuple[str, str]
    concats: tuple[onnx.NodeProto, onnx.NodeProto]
    mask: str
    heads: int
    groups: int
    scale: float
    swap: onnx.NodeProto


class _Graph(Lookups):
    """A graph that is searched and rewritten.

    Attributes
    ----------
    added
        New nodes.
    replaced
        Other nodes, or none, by the names of those in whose place they are.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__(graph)
        self._caches = {
            value.name: (dims[1].dim_value, dims[3].dim_value)
            for value in graph.input
            if (kind := value.type.tensor_type).elem_type == TensorProto.FLOAT
            and len(dims := kind.shape.dim) == _CACHE_AXES
        }
        self._tables: dict[tuple[str, float], tuple[str, str, str]] = {}
        self._lengths: dict[str, tuple[str, str, str]] = {}
        self._added_weights: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.added: list[onnx.NodeProto] = []
        self.replaced: dict[str, Iterable[onnx.NodeProto]] = {}

    def attention(self, softmax: onnx.NodeProto) -> _Attention | None:
        """Return the attention that a node is part of, if it is one that can be fused."""
        if softmax.op_type != "Softmax" or attribute(softmax, "axis", -1) not in (-1, _CACHE_AXES - 1):
            return None
        product, swap = self._after(softmax)
        likeness, mask, scale = self._likeness(softmax.input[0])
        if product is None or swap is None or likeness is None:
            return None
        asked, query_scale = self._scaled(likeness.input[0])
        turned, key_scale = self._scaled(likeness.input[1])
        keys, heads = self._repeated(self._unturned(turned))
        values, other_heads = self._repeated(product.input[1])
        past_keys, past_values = self._appended(keys), self._appended(values)
        if past_keys is None or past_values is None or heads != other_heads:
            return None
        caches = past_keys.input[0], past_values.input[0]
        groups, size = self._caches[caches[0]]
        if self._caches[caches[1]] != (groups, size) or not (groups and size) or (heads or groups) % groups:
            return None
        query, key, value = (self._heads(name, size) for name in (asked, past_keys.input[1], past_values.input[1]))
        if query is None or key is None or value is None or value.angles:
            return None
        return _Attention(
            query,
            key,
            value,
            caches,
            (past_keys, past_values),
            mask,
            heads or groups,
            groups,
            scale * query_scale * key_scale,
            swap,
        )

    def fuse(self, found: _Attention) -> None:
        """Put one operator in the place of an attention."""
        name = found.swap.output[0]
        fused = [self._joined(heads) for heads in (found.query, found.key, found.value)]
        lengths = self._lengths_of(found.mask, found.query)
        fused += [*found.past, *lengths[:2], "", "", "", lengths[2]]
        outputs = [name, *(node.output[0] for node in found.concats)]
        node = onnx.helper.make_node(
            "GroupQueryAttention",
            fused,
            outputs,
            name=f"{name}_attention",
            domain=CONTRIB,
            num_heads=found.heads,
            kv_num_heads=found.groups,
            scale=found.scale,
        )
        self.added.append(node)
        self.replaced |= {node.name: () for node in (found.swap, *found.concats)}

    def _after(self, softmax: onnx.NodeProto) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None]:
        """Return the product with the values, and the node that puts the heads of each token side by side."""
        users = self.users.get(softmax.output[0], [])
        kept = next((node for node in users if node.op_type == "Where"), None)
        if kept is not None:  # what is not a number becomes 0
            check = self.maker(kept.input[0], "IsNaN")
            if check is None or len(users) != 2 or self.number(kept.input[1]) != 0:  # noqa: PLR2004 - it and the check
                return None, None
            if [check.input[0], kept.input[2]] != [softmax.output[0]] * 2:
                return None, None
        product = self.user(kept or softmax, "MatMul")
        swap = self.user(product, "Transpose")
        if product is None or swap is None or product.input[0] != (kept or softmax).output[0]:
            return None, None
        joined = self.user(swap, "Reshape")
        return product, swap if joined is not None and attribute(swap, "perm", None) == _SWAPPED else None

    def _likeness(self, name: str) -> tuple[onnx.NodeProto | None, str, float]:
        """Return the product of queries and keys, what is added to it, and what it is multiplied by."""
        add = self.maker(name, "Add")
        for part, mask in (add.input, reversed(add.input)) if add is not None else ():
            product, scale = self._scaled(part)
            if (node := self.maker(product, "MatMul")) is not None:
                return node, mask, scale
        return None, "", 1.0

    def _scaled(self, name: str) -> tuple[str, float]:
        """Return what a value was before it was multiplied or divided by a number, and the factor."""
        node = self.maker(name, "Mul", "Div")
        number = None if node is None else self.number(node.input[1])
        if node is None or not number:
            return name, 1.0
        return node.input[0], number if node.op_type == "Mul" else 1 / number

    def _unturned(self, name: str) -> str:
        """Return keys before their last axes were exchanged; the name of no value if they were not."""
        if (turn := self.maker(name, "Transpose")) is not None:
            return turn.input[0] if attribute(turn, "perm", None) == [0, 1, 3, 2] else ""
        apart = self.maker(name, "Reshape")
        turn = self.maker(apart.input[0], "Transpose") if apart is not None else None
        if turn is None or attribute(turn, "perm", None) != [0, 2, 1]:
            return ""
        flat = self.maker(turn.input[0], "Reshape")
        return flat.input[0] if flat is not None else ""

    def _repeated(self, name: str) -> tuple[str, int]:
        """Return keys or values before each was repeated for the queries of its group, and the number of queries."""
        joined = self.maker(name, "Reshape")
        wide = self.maker(joined.input[0], "Expand") if joined is not None else None
        apart = self.maker(wide.input[0], "Unsqueeze") if wide is not None else None
        if joined is None or apart is None or self.numbers(*apart.input[1:2]) != [2]:
            return name, 0
        shape = self.maker(joined.input[1], "Concat")
        heads = self.numbers(shape.input[1]) if shape is not None and len(shape.input) == _CACHE_AXES else []
        return (apart.input[0], heads[0]) if len(heads) == 1 else (name, 0)

    def _appended(self, name: str) -> onnx.NodeProto | None:
        """Return the node that appends to a cache."""
        node = self.maker(name, "Concat")
        appends = node is not None and len(node.input) == 2 and attribute(node, "axis", None) in (2, -2)  # noqa: PLR2004
        return node if node is not None and appends and node.input[0] in self._caches else None

    def _heads(self, name: str, size: int) -> _Heads | None:
        """Return heads of shape (batch, heads, tokens, size) before they were rotated and their axes exchanged."""
        if (swap := self.maker(name, "Transpose")) is not None:
            return _Heads(swap.input[0]) if attribute(swap, "perm", None) == _SWAPPED else None
        add = self.maker(name, "Add")
        straight, crossed = (self.maker(part, "Mul") for part in add.input) if add is not None else (None, None)
        if straight is None or crossed is None:
            return None
        (x, cos), (turned, sin) = straight.input, crossed.input
        swap = self.maker(x, "Transpose")
        angles, others = self._angles(cos, "Cos"), self._angles(sin, "Sin")
        halves = self.maker(turned, "Concat")
        if swap is None or angles is None or angles != others or halves is None or len(halves.input) != 2:  # noqa: PLR2004
            return None
        negative = self.maker(halves.input[0], "Neg")
        if negative is None or attribute(swap, "perm", None) != _SWAPPED or attribute(halves, "axis", 0) not in (-1, 3):
            return None
        parts = [self._part(part, x, size) for part in (halves.input[1], negative.input[0])]
        if parts != [(0, size // 2), (size // 2, size)] or size % 2:
            return None
        return _Heads(swap.input[0], *angles)

    def _angles(self, name: str, operator: str) -> tuple[str, float] | None:
        """Return the angles whose cosines or sines a value has, for both halves of a head, and their factor."""
        wide = self.maker(name, "Unsqueeze")
        if wide is None or self.numbers(*wide.input[1:2]) != [1]:
            return None
        plain, factor = self._scaled(wide.input[0])
        node = self.maker(plain, operator)
        both = self.maker(node.input[0], "Concat") if node is not None else None
        if both is None or len(both.input) != 2 or both.input[0] != both.input[1]:  # noqa: PLR2004 - the halves
            return None
        return (both.input[0], factor) if attribute(both, "axis", 0) in (-1, 2) else None

    def _part(self, name: str, whole: str, size: int) -> tuple[int, int] | None:
        """Return where a part of a value's last axis, of some size, begins and ends."""
        node = self.maker(name, "Slice")
        if node is None or node.input[0] != whole:
            return None
        start, end, axes, *steps = (self.numbers(part) for part in node.input[1:])
        if axes not in ([3], [-1]) or steps not in ([], [[1]]) or len(start) != 1 or len(end) != 1:
            return None
        return start[0], min(end[0], size)

    def _joined(self, heads: _Heads) -> str:
        """Return heads side by side, of shape (batch, tokens, size), rotated if they have angles."""
        source, shape = heads.name, self._weight([0, 0, -1], np.int64)
        apart = self.maker(heads.name, "Reshape")
        sizes = self.maker(apart.input[1], "Concat") if apart is not None else None
        if apart is not None and sizes is not None and len(sizes.input) == _CACHE_AXES:
            rest = self._weight([-1], np.int64)
            source = apart.input[0]
            shape = self._node("Concat", [*sizes.input[:2], rest], f"{heads.name}_sizes", axis=0)
        joined = self._node("Reshape", [source, shape], f"{heads.name}_joined")
        if not heads.angles:
            return joined
        inputs = [joined, *self._tables_of(heads)]
        return self._node("RotaryEmbedding", inputs, f"{heads.name}_rotated", domain=CONTRIB)

    def _lengths_of(self, mask: str, query: _Heads) -> tuple[str, str, str]:
        """Return the place of the last token of each item, the number of all, and the mask without infinite values."""
        if mask not in self._lengths:
            total = self._node("Shape", [mask], f"{mask}_total", start=3, end=4)
            number = self._node("Cast", [total], f"{mask}_number", to=TensorProto.INT32)
            last = self._node("Sub", [number, self._weight([1], np.int32)], f"{mask}_last")
            items = self._node("Shape", [query.name], f"{mask}_items", start=0, end=1)
            self._lengths[mask] = (
                self._node("Expand", [last, items], f"{mask}_lasts"),
                self._node("Squeeze", [number], f"{mask}_scalar"),
                # A token that sees nothing would become NaN if it were infinitely far from all.
                self._node("Max", [mask, self._weight(_LOWEST, np.float32)], f"{mask}_finite"),
            )
        return self._lengths[mask]

    def _tables_of(self, heads: _Heads) -> tuple[str, str, str]:
        """Return where each token's angles are in tables, and the tables of cosines and sines.

        A table has a row for each token of the batch, whatever its place is, so that no place is the last one.
        """
        angles, factor = heads.angles, heads.factor
        if (angles, factor) in self._tables:
            return self._tables[angles, factor]
        rows = self._node("Shape", [angles], f"{angles}_rows", start=0, end=2)
        count = self._node("ReduceProd", [rows], f"{angles}_count", keepdims=0)
        first, step = (self._weight(number, np.int64) for number in (0, 1))
        numbers = self._node("Range", [first, count, step], f"{angles}_numbers")
        each = self._node("Reshape", [numbers, rows], f"{angles}_each")
        tokens = self._node("Shape", [heads.name], f"{angles}_tokens", start=0, end=2)
        places = self._node("Expand", [each, tokens], f"{angles}_places")
        width = self._node("Shape", [angles], f"{angles}_width", start=2, end=3)
        rest = self._weight([-1], np.int64)
        shape = self._node("Concat", [rest, width], f"{angles}_table_shape", axis=0)
        flat = self._node("Reshape", [angles, shape], f"{angles}_flat")
        made = [self._node(operator, [flat], f"{angles}_{operator}") for operator in ("Cos", "Sin")]
        if factor != 1:
            by = self._weight(factor, np.float32)
            made = [self._node("Mul", [name, by], f"{name}_scaled") for name in made]
        self._tables[angles, factor] = (places, made[0], made[1])
        return self._tables[angles, factor]

    def _node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node, and return its output, which has the node's name."""
        self.added.append(onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _weight(self, values: Any, dtype: DTypeLike) -> str:  # noqa: ANN401 - whatever numpy makes an array of
        """Return the name of a new weight, or of the one that has these values already."""
        made = np.array(values, dtype)
        key = str(made.dtype), made.shape, made.tobytes()
        if key not in self._added_weights:
            self._added_weights[key] = add_weight(self.graph, f"attention_{len(self._added_weights)}", made)
        return self._added_weights[key]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes that nothing takes, and those that only they take."""
    used = {value.name for value in graph.output}
    unused: list[str] = []
    for node in reversed(graph.node):
        if used.isdisjoint(node.output):
            unused.append(node.name)
        else:
            used.update((*node.input, *(name for body in bodies(node) for name in captured(body))))
    replace_nodes(graph, dict.fromkeys(unused, ()))
