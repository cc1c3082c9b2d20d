"""Finds where in a recording someone speaks; what it heard before is a state, which is carried over its windows."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from case import Case, Run, batch_first
from sounds import conversation

from cdk_inference.model import Graph, Graphs, OnnxFile, Recurrent, TensorSpec
from inference_runtime.stages.builtin.segments import segments_postprocessor
from inference_runtime.stages.item import Item

RATE, WINDOW, CONTEXT = 16_000, 512, 64
SECONDS = 12

CASE = Case(
    kind="voice activity (carried over a recording)",
    package="silero-vad",
    file="silero_vad/data/silero_vad_openvino_16k.onnx",
    license="MIT",
    inputs=(TensorSpec("input", "float32", ("batch", "samples")),),
    outputs=(TensorSpec("output", "float32", ("batch", "windows")),),
    seen="milliseconds of speech or silence, as the package tells them",
    bound=0.95,
    metric="mean_absolute_error",
    source=Graphs(
        {
            "window": Graph(
                OnnxFile("model.onnx"),
                inputs=(
                    TensorSpec("input", "float32", ("batch", WINDOW + CONTEXT)),
                    TensorSpec("state", "float32", ("batch", 2, 128)),
                ),
                outputs=(
                    TensorSpec("output", "float32", ("batch", 1)),
                    TensorSpec("stateN", "float32", ("batch", 2, 128)),
                ),
            )
        },
        driver=Recurrent(
            over="input", chunk=WINDOW, context=CONTEXT, states={"stateN": "state"}, outputs={"output": "joined"}
        ),
    ),
    sample_rate=RATE,
)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis == (1 if value.name.startswith("state") else 0):
                dim.dim_param = "batch"  # the file says 1, but nothing in it depends on that
    return batch_first(model, {"state": (1, 0, 2), "stateN": (1, 0, 2)})


def recordings(seed: int, count: int = 4):
    random = np.random.default_rng(seed)
    for _ in range(count):
        sound = np.concatenate([conversation(random) for _ in range(3)])
        yield np.resize(sound, SECONDS * RATE)[: int(random.uniform(0.7, 1) * SECONDS * RATE)]


def calibration():
    for sound in recordings(1):
        yield {"input": sound[None]}


def evaluation():
    for sound in recordings(2):
        yield {"input": sound[None]}


def speaks(segments: list[tuple[float, float]]) -> np.ndarray:
    """Return for each millisecond whether someone speaks."""
    told = np.zeros(SECONDS * 1000, bool)
    for start, end in segments:
        told[round(start * 1000) : round(end * 1000)] = True
    return told


def use(run: Run) -> list[np.ndarray]:
    postprocess = segments_postprocessor(WINDOW / RATE)
    told = []
    for sound in recordings(3):
        item = Item("id", "b", "k", None, "e", 1, "0", "2026-01-01T00:00:00Z", "m", {"seconds": len(sound) / RATE})
        found = postprocess({"output": run({"input": sound[None]})["output"][0]}, item)
        told.append(speaks([(one["start"], one["end"]) for one in found["segments"]]))
    return told


def reference() -> list[np.ndarray]:
    """Return what the package's own code says with its own model, in float32."""
    import torch
    from silero_vad import get_speech_timestamps, load_silero_vad

    warnings.filterwarnings("ignore", category=UserWarning)
    model = load_silero_vad(onnx=True)
    found = [get_speech_timestamps(torch.from_numpy(sound), model, sampling_rate=RATE) for sound in recordings(3)]
    return [speaks([(one["start"] / RATE, one["end"] / RATE) for one in each]) for each in found]


def agreement(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    return float(np.mean([one == other for one, other in zip(expected, found, strict=True)]))
