"""Small graphs, as exporters write them, and odd ones, as the public has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from cdk_inference.model.building.evaluation.session import open_session
from cdk_inference.model.building.graph.graph import clean, fuse

if TYPE_CHECKING:
    from pathlib import Path

FLOAT = TensorProto.FLOAT


class Graph:
    """Writes a graph node by node; weights are drawn at random, scaled so that activations keep their size."""

    def __init__(self, *, opset: int = 18, ir_version: int = 10, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.opset, self.ir_version = opset, ir_version
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: tuple[str | int, ...], kind: int = FLOAT) -> str:
        self.inputs.append(make_tensor_value_info(name, kind, shape))
        return name

    def weight(self, values: np.ndarray | list[int] | float) -> str:
        values = np.asarray(values)
        kind = {"f": np.float32, "i": np.int64}.get(values.dtype.kind, values.dtype)
        array = values if values.dtype in (np.float16, np.int8, np.uint8, np.int32) else values.astype(kind)
        self.weights.append(numpy_helper.from_array(array, f"weight{len(self.weights)}"))
        return self.weights[-1].name

    def normal(self, *shape: int, scale: float | None = None, mean: float = 0.0) -> str:
        spread = scale if scale is not None else 1 / np.sqrt(np.prod(shape[1:]))
        return self.weight((self.random.normal(mean, spread, shape)).astype(np.float32))

    def add(self, operator: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object) -> str:
        names = [f"{operator.lower()}{len(self.nodes)}{'abc'[i]}" for i in range(outputs)]
        self.nodes.append(make_node(operator, inputs, names, domain=domain, **attributes))
        return names[0]

    def conv(
        self, x: str, channels: tuple[int, int], kernel: int = 3, *, relu: bool = True, **attributes: object
    ) -> str:
        into, out = channels
        scale = float(np.sqrt(2 / (into * kernel * kernel)))
        y = self.add(
            "Conv", x, self.normal(out, into, kernel, kernel, scale=scale), self.normal(out, scale=0.1), **attributes
        )
        return self.add("Relu", y) if relu else y

    def linear(self, x: str, into: int, out: int) -> str:
        product = self.add("MatMul", x, self.normal(into, out, scale=1 / np.sqrt(into)))
        return self.add("Add", product, self.normal(out, scale=0.1))

    def norm(self, x: str, size: int) -> str:
        return self.add("LayerNormalization", x, self.normal(size, scale=0.3, mean=1.0), self.normal(size, scale=0.3))

    def gelu(self, x: str) -> str:
        erf = self.add("Erf", self.add("Div", x, self.weight(np.float32(np.sqrt(2)))))
        half = self.add("Mul", self.weight(np.float32(0.5)), self.add("Add", erf, self.weight(np.float32(1))))
        return self.add("Mul", x, half)

    def model(self, *outputs: str, kind: int = FLOAT, **names: str) -> onnx.ModelProto:
        for name, value in names.items():
            self.nodes.append(make_node("Identity", [value], [name]))
        values = [make_tensor_value_info(n, kind, None) for n in (*outputs, *names)]
        graph = make_graph(self.nodes, "graph", self.inputs, values, self.weights)
        domains = {n.domain for n in self.nodes} - {""}
        imports = [make_opsetid("", self.opset), *(make_opsetid(d, 1) for d in sorted(domains))]
        return make_model(graph, opset_imports=imports, ir_version=self.ir_version)


def prepared(model: onnx.ModelProto, work: Path) -> onnx.ModelProto:
    return clean(fuse(model, work))


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs, the same on every CPU."""
    outputs: list[np.ndarray] = open_session(model.SerializeToString()).run(None, feed)
    return outputs


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    return float(np.mean(np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))))


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def images(count: int, seed: int = 0, size: int = 32) -> np.ndarray:
    """Return smooth colours with some noise, (count, size, size, 3) uint8."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3)).astype(np.float32)
    fine = np.kron(coarse, np.ones((1, size // 4, size // 4, 1), np.float32)) + random.normal(
        0, 10, (count, size, size, 3)
    )
    return np.clip(fine, 0, 255).astype(np.uint8)


def cnn() -> onnx.ModelProto:
    """Return a residual network of uint8 images (batch, 32, 32, 3) that normalises them itself."""
    g = Graph()
    x = g.add("Transpose", g.input("images", ("batch", 32, 32, 3), TensorProto.UINT8), perm=[0, 3, 1, 2])
    x = g.add("Sub", g.add("Cast", x, to=FLOAT), g.weight(np.float32(127)))
    x = g.add("Div", x, g.weight(np.float32(128)))
    x = g.conv(x, (3, 16), strides=[2, 2], pads=[0, 0, 1, 1])
    for _ in range(2):
        y = g.conv(x, (16, 32), pads=[1, 1, 1, 1])
        y = g.conv(y, (32, 16), relu=False, pads=[1, 1, 1, 1])
        x = g.add("Relu", g.add("Add", x, y))
    x = g.add("ReduceMean", x, g.weight([2, 3]), keepdims=0)
    x = g.add("Gemm", x, g.normal(16, 256), g.normal(256, scale=0.1))
    return g.model(scores=g.add("Gemm", x, g.normal(10, 256), g.normal(10, scale=0.1), transB=1))


def transformer(layers: int = 2, size: int = 64) -> onnx.ModelProto:
    """Return an encoder of token ids (batch, sequence) with one attention head."""
    g = Graph()
    x = g.add("Gather", g.normal(500, size, scale=1.0), g.input("ids", ("batch", "sequence"), TensorProto.INT64))
    x = _encoder(g, g.norm(x, size), layers, size)
    return g.model(embedding=g.add("ReduceMean", x, g.weight([1]), keepdims=0))


def _encoder(g: Graph, x: str, layers: int, size: int) -> str:
    for _ in range(layers):
        q, k, v = (g.linear(x, size, size) for _ in range(3))
        weights = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1]))
        weights = g.add("Softmax", g.add("Mul", weights, g.weight(np.float32(1 / np.sqrt(size)))))
        x = g.norm(g.add("Add", x, g.linear(g.add("MatMul", weights, v), size, size)), size)
        x = g.norm(g.add("Add", x, g.linear(g.gelu(g.linear(x, size, 4 * size)), 4 * size, size)), size)
    return x


def recurrent(operator: str = "LSTM", hidden: int = 48) -> onnx.ModelProto:
    """Return a classifier of sequences (batch, sequence, 16)."""
    g = Graph()
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    x = g.add("Transpose", g.input("x", ("batch", "sequence", 16)), perm=[1, 0, 2])
    weights = [g.normal(1, gates * hidden, n, scale=1 / np.sqrt(hidden)) for n in (16, hidden)]
    y = g.add(operator, x, *weights, g.normal(1, 2 * gates * hidden, scale=0.1), outputs=1, hidden_size=hidden)
    last = g.add("Gather", g.add("Squeeze", y, g.weight([1])), g.weight(-1), axis=0)
    return g.model(scores=g.linear(last, hidden, 64))


def hybrid() -> onnx.ModelProto:
    """Return a network of convolutions (batch, 3, 16, 16) and attention over their positions."""
    g = Graph()
    x = g.conv(g.input("x", ("batch", 3, 16, 16)), (3, 32), strides=[2, 2], pads=[1, 1, 1, 1])
    for _ in range(2):
        x = g.conv(x, (32, 32), pads=[1, 1, 1, 1])
    x = g.add("Transpose", g.add("Reshape", x, g.weight([0, 32, 64])), perm=[0, 2, 1])
    q, k, v = (g.linear(x, 32, 64) for _ in range(3))
    weights = g.add("Softmax", g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1])))
    x = g.norm(g.linear(g.add("MatMul", weights, v), 64, 64), 64)
    return g.model(scores=g.add("ReduceMean", x, g.weight([1]), keepdims=0))


def _lstm(g: Graph, x: str, size: int, hidden: int) -> str:
    """Return the states of an LSTM over (batch, sequence, size), (batch, sequence, hidden)."""
    weights = [g.normal(1, 4 * hidden, n, scale=2 / np.sqrt(hidden)) for n in (size, hidden)]
    y = g.add("LSTM", g.add("Transpose", x, perm=[1, 0, 2]), *weights, g.normal(1, 8 * hidden), hidden_size=hidden)
    return g.add("Transpose", g.add("Squeeze", y, g.weight([1])), perm=[1, 0, 2])


def voice_activity() -> onnx.ModelProto:
    """Return a detector of speech in frames of sound (batch, 1, 2048): convolutions, an LSTM, a probability a frame."""
    g = Graph()
    x = g.conv(g.add("Unsqueeze", g.input("x", ("batch", 1, 2048)), g.weight([2])), (1, 64), 1)
    for channels in ((64, 64), (64, 64)):
        weight = g.normal(*channels[::-1], 1, 9, scale=np.sqrt(2 / 9 / channels[0]))
        x = g.add("Relu", g.add("Conv", x, weight, g.normal(64, scale=0.1), strides=[1, 8], pads=[0, 4, 0, 4]))
    x = g.add("Transpose", g.add("Squeeze", x, g.weight([2])), perm=[0, 2, 1])
    logits = g.add("Mul", g.linear(_lstm(g, x, 64, 64), 64, 1), g.weight(np.float32(6)))
    return g.model(speech=g.add("Sigmoid", logits))


def text_recognition() -> onnx.ModelProto:
    """Return a reader of lines of text (batch, 1, 16, 64): convolutions, an LSTM, scores of 37 characters a step."""
    g = Graph()
    x = g.conv(g.input("x", ("batch", 1, 16, 64)), (1, 32), strides=[2, 2], pads=[1, 1, 1, 1])
    x = g.conv(x, (32, 64), strides=[2, 2], pads=[1, 1, 1, 1])
    x = g.conv(x, (64, 64), strides=[2, 1], pads=[1, 1, 1, 1])
    x = g.add("Reshape", g.add("Transpose", x, perm=[0, 3, 1, 2]), g.weight([0, 0, 128]))
    return g.model(scores=g.linear(_lstm(g, x, 128, 96), 96, 37))


def image_transformer(layers: int = 2, size: int = 64) -> onnx.ModelProto:
    """Return a classifier of images (batch, 3, 32, 32) that takes patches of them for words."""
    g = Graph()
    x = g.input("x", ("batch", 3, 32, 32))
    x = g.add("Conv", x, g.normal(size, 3, 8, 8, scale=0.1), g.normal(size, scale=0.1), strides=[8, 8])
    x = g.add("Transpose", g.add("Reshape", x, g.weight([0, size, 16])), perm=[0, 2, 1])
    x = g.norm(_encoder(g, x, layers, size), size)
    return g.model(scores=g.linear(g.add("ReduceMean", x, g.weight([1]), keepdims=0), size, 50))


def detector(*, distribution: bool = True, classes: int = 5) -> onnx.ModelProto:
    """Return a detector of images (batch, 3, 64, 64) as YOLO's versions end: boxes in pixels, joined with scores.

    Only spots that stand out reach a score. Edges are the mean of a distribution over 16 places, or come as they are.
    """
    g = Graph()
    x = g.conv(g.input("x", ("batch", 3, 64, 64)), (3, 32), strides=[2, 2], pads=[1, 1, 1, 1])
    x = g.conv(x, (32, 32), strides=[2, 2], pads=[1, 1, 1, 1])
    edges = 64 if distribution else 4
    box = g.conv(x, (32, edges), 1, relu=False)
    kernel = g.normal(classes, 32, 1, 1, scale=1.0)
    found = g.add("Conv", x, kernel, g.weight(np.full(classes, -12, np.float32)))
    joined = g.add("Reshape", g.add("Concat", box, found, axis=1), g.weight([0, edges + classes, 256]))
    box = g.add("Split", joined, g.weight([edges, classes]), outputs=2, axis=1)
    score = g.add("Sigmoid", g.nodes[-1].output[1])
    if distribution:
        places = g.add("Transpose", g.add("Reshape", box, g.weight([0, 4, 16, 256])), perm=[0, 2, 1, 3])
        places = g.add("Softmax", places, axis=1)
        box = g.add("Conv", places, g.weight(np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)))
        box = g.add("Reshape", box, g.weight([0, 4, 256]))
    pixels = g.add("Mul", g.add("Add", box, g.weight(np.arange(256, dtype=np.float32))), g.weight(np.float32(4)))
    return g.model(found=g.add("Concat", pixels, score, axis=1))


def branching() -> onnx.ModelProto:
    """Return a graph with an If whose bodies take values and weights from outside, and a Loop."""
    g = Graph()
    x = g.input("x", ("batch", 64))
    outer = g.normal(64, 64)
    h = g.add("MatMul", x, outer)
    condition = g.add("Greater", g.add("ReduceSum", x, keepdims=0), g.weight(np.float32(0)))
    inner = numpy_helper.from_array(np.full(64, 2, np.float32), "inner")
    then = make_graph(
        [make_node("MatMul", [h, outer], ["t0"]), make_node("Mul", ["t0", "inner"], ["t1"])],
        "then",
        [],
        [make_tensor_value_info("t1", FLOAT, None)],
        [inner],
    )
    otherwise = make_graph([make_node("Neg", [h], ["t1b"])], "else", [], [make_tensor_value_info("t1b", FLOAT, None)])
    y = g.add("If", condition, then_branch=then, else_branch=otherwise)
    body = make_graph(
        [
            make_node("MatMul", ["state", outer], ["n0"]),
            make_node("Tanh", ["n0"], ["next"]),
            make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            make_tensor_value_info("i", TensorProto.INT64, []),
            make_tensor_value_info("go", TensorProto.BOOL, []),
            make_tensor_value_info("state", FLOAT, None),
        ],
        [make_tensor_value_info("on", TensorProto.BOOL, []), make_tensor_value_info("next", FLOAT, None)],
    )
    return g.model(y=g.add("Loop", g.weight(3), "", y, body=body))


def half() -> onnx.ModelProto:
    """Return a network whose weights are float16."""
    g = Graph()
    x = g.add("Cast", g.input("x", ("batch", 64)), to=TensorProto.FLOAT16)
    x = g.add("MatMul", x, g.weight(g.random.normal(0, 0.1, (64, 64)).astype(np.float16)))
    return g.model(y=g.add("Cast", x, to=FLOAT))


def integers() -> onnx.ModelProto:
    """Return a graph of integers alone."""
    g = Graph()
    x = g.input("x", ("batch", 4), TensorProto.INT64)
    return g.model(y=g.add("Mul", g.add("Add", x, g.weight([1, 2, 3, 4])), x), kind=TensorProto.INT64)


def weightless() -> onnx.ModelProto:
    """Return a graph without weights."""
    g = Graph()
    return g.model(y=g.add("Softmax", g.input("x", ("batch", 4))))


def old() -> onnx.ModelProto:
    """Return a network as Keras and PyTorch wrote it in 2019: operator set 9, weights among the inputs."""
    g = Graph(opset=9, ir_version=4)
    x = g.conv(g.input("x", (1, 3, 16, 16)), (3, 16), pads=[1, 1, 1, 1], relu=False)
    parameters = [g.normal(16, scale=0.1, mean=1.0) for _ in range(3)] + [g.weight(np.ones(16, np.float32))]
    x = g.add("Relu", g.add("BatchNormalization", x, *parameters))
    x = g.add("Clip", g.conv(x, (16, 16), pads=[1, 1, 1, 1], relu=False), min=0.0, max=6.0)
    x = g.add("Squeeze", g.add("GlobalAveragePool", x), axes=[2, 3])
    model = g.model(scores=g.add("Gemm", x, g.normal(16, 10), g.normal(10, scale=0.1)))
    model.graph.input.extend(make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in model.graph.initializer)
    return model


ODD = {
    "control flow": branching,
    "float16 weights": half,
    "integers alone": integers,
    "no weights": weightless,
    "operator set 9": old,
}


def feed(model: onnx.ModelProto, *, batch: int = 4, sequence: int = 12, seed: int = 1) -> dict[str, np.ndarray]:
    """Return inputs for a model of this file."""
    random = np.random.default_rng(seed)
    found = {}
    weights = {w.name for w in model.graph.initializer}
    for value in model.graph.input:
        if value.name in weights:
            continue
        sizes = {"batch": batch, "sequence": sequence}
        shape = [d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim]
        kind = value.type.tensor_type.elem_type
        if kind == TensorProto.UINT8:
            found[value.name] = images(shape[0], seed, shape[1])
        elif kind == TensorProto.INT64:
            found[value.name] = random.integers(0, 100, shape)
        else:
            found[value.name] = random.normal(size=shape).astype(np.float32)
    return found
