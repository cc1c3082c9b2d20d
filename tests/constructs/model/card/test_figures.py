"""Any figures and any outputs that a build may leave make a card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tests.constructs.model.card import entries

from cdk_inference.model.card import render
from cdk_inference.model.recipe.tensors import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SETTINGS = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
METRICS = ["top1", "top5", "top1_agreement", "cosine", "mean_absolute_error", "metrics.py:own_score"]
qualities = st.floats(-1e6, 1e6, allow_subnormal=False) | st.floats(0, 1)
candidates = st.lists(
    st.builds(
        lambda quality, size, latency, status: entries.candidate(
            "some int8", "static_int8", status, quality, quality, size, latency, None if latency is None else 1.5
        ),
        st.none() | qualities,
        st.none() | st.integers(0, 10**13),
        st.none() | st.floats(0, 1e7, allow_subnormal=False),
        st.sampled_from(["passed", "failed", "slower", "error", "another"]),
    ),
    max_size=5,
)


@SETTINGS
@given(
    others=candidates,
    metric=st.sampled_from(METRICS),
    figures=st.tuples(qualities, qualities, qualities),
    data=st.data(),
)
def test_any_figures_make_a_card(
    tmp_path_factory: pytest.TempPathFactory,
    others: list[dict[str, Any]],
    metric: str,
    figures: tuple[float, float, float],
    data: st.DataObject,
) -> None:
    chosen = data.draw(st.sampled_from([None, *range(len(others))]))
    first = {**entries.CANDIDATES[0], "quality": figures[0]}
    tried = [first, *others]
    tried[0 if chosen is None else chosen + 1]["status"] = "shipped"
    gate = {
        "metric": metric, "baseline": figures[0], "deployed": figures[1], "limit": figures[2],
        "samples": data.draw(st.integers(0, 10**6)), "higher_is_better": metric != "mean_absolute_error",
        "floor": data.draw(st.none() | qualities), "max_latency_ms": data.draw(st.none() | st.floats(1e-6, 1e6)),
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("figures")
    entries.write(folder, entries.manifest([entries.IMAGES], [entries.LOGITS]), entries.report(tried, gate))
    card = render(folder)
    for file in (card.html, card.markdown):
        text = file.read_text("utf-8").lower()
        assert " nan" not in text
        assert "infinity" not in text


dtypes = st.sampled_from(["float32", "float16", "int64", "uint8", "bool"]).map(np.dtype)
outputs = st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=3), min_size=1, max_size=2)


@SETTINGS
@given(count=st.integers(0, 9), shapes=outputs, metric=st.sampled_from(METRICS), data=st.data())
def test_any_outputs_make_a_card(
    tmp_path_factory: pytest.TempPathFactory, count: int, shapes: list[list[int]], metric: str, data: st.DataObject
) -> None:
    arrays: dict[str, Any] = {}
    for index, shape in enumerate(shapes):
        dtype = data.draw(dtypes)
        finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
        array = npst.arrays(dtype, (count, *shape), elements=npst.from_dtype(dtype, **finite))
        arrays[f"float_o{index}"], arrays[f"deployed_o{index}"] = data.draw(array), data.draw(array)
    if data.draw(st.booleans()):
        arrays["labels"] = data.draw(npst.arrays(np.int64, (count,), elements=st.integers(-1, 6)))
    shown = data.draw(st.integers(0, count))
    samples = {"input_x": np.zeros((shown, 3), np.float32), "numbers": np.arange(count)[count - shown :]}
    specs = [TensorSpec(f"o{i}", "float32", ("batch", *shape)) for i, shape in enumerate(shapes)]
    gate = {"metric": metric, "baseline": 1.0, "deployed": 1.0, "limit": 0.9, "samples": count}
    folder = tmp_path_factory.mktemp("outputs")
    manifest = entries.manifest([TensorSpec("x", "float32", ("batch", 3))], specs)
    report = entries.report(entries.CANDIDATES[:3], gate, class_names=None)
    html = render(entries.write(folder, manifest, report, arrays, samples)).html.read_text("utf-8")
    assert ("Sample predictions" in html) == (shown > 0)
    assert ">nan" not in html


def test_large_outputs_make_a_small_card(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder = entries.regression(tmp_path)
    values = random.normal(size=(20_000, 6)).astype(np.float32)
    np.savez(folder / "evaluation.npz", float_progression=values, deployed_progression=values + 0.01)
    assert render(folder).html.stat().st_size < 300_000
