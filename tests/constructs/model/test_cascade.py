"""The threshold of a cascade: what is chosen, what is told about it, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from aws_cdk import App, Stack
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.constructs.model.conftest import write_recipe

from cdk_inference.errors import ModelBuildError, PropError
from cdk_inference.model import Calibration, DynamicInt8, Float16, Float32, calibrate, cascade
from cdk_inference.model.artifact import ModelArtifact
from cdk_inference.model.building.evaluation.metrics import confidences
from cdk_inference.model.cascade import GRID, Answers, choose, count_agreement, decide, lower_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cdk_inference.model.recipe.precision import Pinned

ROOT = Path(__file__).parents[3]
LITE = ROOT / "model_assets" / "efficientnet_lite"
DIGITS = ROOT / "model_assets" / "digits_cnn" / "recipe.py"
PAGE = ROOT / "docs" / "guide" / "cascade.md"
LOCKED = ("float16", 0.95)
"""The calibration that examples/cascade asks for, and has a lock of. If that does not fit, run the example."""
CLASSES = 3

# Coarse, so that samples tie with each other and with the grid.
SCORES = st.integers(1, 30).flatmap(
    lambda samples: st.tuples(
        *(arrays(np.float32, (samples, CLASSES), elements=st.sampled_from([-9.0, -1, 0, 0.5, 2, 9])) for _ in range(2))
    )
)
TARGETS = st.one_of(st.integers(1, 100).map(lambda percent: percent / 100), st.floats(0.001, 1))


def answers(scores: np.ndarray, *, name: str = "small", labels: Sequence[int] | None = None) -> Answers:
    sure = [round(float(confidences(row[None])[0]), 6) for row in scores]
    top = tuple(np.argmax(scores, axis=1).tolist())
    return Answers(name, "0", scores.shape[1], top, tuple(sure), None if labels is None else tuple(labels), None)


def pair(alike: Sequence[bool], sure: Sequence[float], **more: Any) -> tuple[Answers, Answers]:
    """Answers of two models that are the same where `alike`, of which the first is so sure."""
    first = Answers("small", "1", CLASSES, tuple(int(not same) for same in alike), tuple(sure), None, None)
    then = Answers("large", "2", CLASSES, (0,) * len(alike), (0.9,) * len(alike), None, None)
    return replace(first, **more), replace(then, **more)


def effect(first: Answers, then: Answers, threshold: float) -> tuple[int, int]:
    """How many are escalated and how many agree, sample by sample as a workflow does it."""
    escalated = [confidence < threshold for confidence in first.confidences]
    given_answers = [two if gone else one for one, two, gone in zip(first.top, then.top, escalated, strict=True)]
    return sum(escalated), sum(one == two for one, two in zip(given_answers, then.top, strict=True))


@given(SCORES, TARGETS)
def test_threshold_is_the_lowest_of_the_grid_that_reaches_the_target(
    scores: tuple[np.ndarray, np.ndarray], target: float
) -> None:
    first, then = map(answers, scores)
    found = choose(first, then, target)
    samples = len(first.top)
    needed = Fraction(repr(target)) * samples
    assert found.threshold == next(t for t in GRID if effect(first, then, t)[1] >= needed)
    escalated, agreed = effect(first, then, found.threshold)
    assert found.escalation_rate == pytest.approx(escalated / samples, abs=1e-6)
    assert found.agreement == pytest.approx(agreed / samples, abs=1e-6)
    assert found.first_agreement == pytest.approx(effect(first, then, 0)[1] / samples, abs=1e-6)
    assert found.agreement_bound <= found.agreement + 1e-6


@given(SCORES)
def test_curve_only_rises_and_ends_where_everything_is_escalated(scores: tuple[np.ndarray, np.ndarray]) -> None:
    curve = choose(*map(answers, scores), 0.9).curve
    assert [point.threshold for point in curve] == [step / 100 for step in range(102)]
    for values in ([p.escalation_rate for p in curve], [p.agreement for p in curve]):
        assert values == sorted(values)
    assert curve[0].escalation_rate == 0
    assert (curve[-1].escalation_rate, curve[-1].agreement) == (1, 1)


@given(SCORES, TARGETS, TARGETS)
def test_who_asks_for_more_escalates_no_less(
    scores: tuple[np.ndarray, np.ndarray], target: float, other: float
) -> None:
    low, high = (choose(*map(answers, scores), t) for t in sorted((target, other)))
    assert low.threshold <= high.threshold
    assert low.escalation_rate <= high.escalation_rate
    assert low.agreement <= high.agreement
    assert low.curve == high.curve


@given(SCORES, TARGETS, st.randoms(use_true_random=False))
def test_order_of_the_samples_does_not_matter(
    scores: tuple[np.ndarray, np.ndarray], target: float, random: Any
) -> None:
    order = list(range(len(scores[0])))
    random.shuffle(order)
    assert choose(*map(answers, scores), target) == choose(*(answers(s[order]) for s in scores), target)


@given(SCORES, TARGETS)
def test_json_gives_back_the_same(scores: tuple[np.ndarray, np.ndarray], target: float) -> None:
    labels = [0] * len(scores[0])
    found = choose(*(answers(s, labels=labels) for s in scores), target)
    assert Calibration.from_json(found.to_json()) == found
    assert found.to_json() == Calibration.from_json(found.to_json()).to_json()


def test_confidence_equal_to_the_threshold_is_sure_enough() -> None:
    for step in range(1, 101):
        found = choose(*pair([True, False], [step / 100, step / 100 - 1e-6]), 1.0)
        assert (found.threshold, found.escalation_rate) == (step / 100, 0.5)
        found = choose(*pair([True, False], [1.0, step / 100]), 1.0)
        assert found.threshold == GRID[step + 1]


def test_single_sample_on_which_they_agree_is_never_escalated() -> None:
    found = choose(*pair([True], [0.4]), 1.0)
    assert (found.threshold, found.samples, found.escalation_rate, found.agreement) == (0, 1, 0, 1)
    assert found.agreement_bound == pytest.approx(0.05, abs=2e-6)


def test_single_sample_on_which_they_differ_is_escalated() -> None:
    found = choose(*pair([False], [0.4]), 0.01)
    assert (found.threshold, found.escalation_rate, found.agreement, found.first_agreement) == (0.41, 1, 1, 0)


def test_models_that_always_agree_need_no_second_one_and_the_warning_says_so() -> None:
    found = choose(*pair([True] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]), 1.0)
    assert (found.threshold, found.escalation_rate, found.first_agreement) == (0, 0, 1)
    assert found.warning == (
        "the cascade of small and large never asks large: small alone agrees with it on 100 % of 5 samples, and 100 % "
        "was asked for; use small alone, or ask for more"
    )


def test_models_that_never_agree_escalate_everything_and_the_warning_says_so() -> None:
    found = choose(*pair([False] * 4, [0.5, 0.7, 0.999, 1.0]), 0.99)
    assert (found.threshold, found.escalation_rate, found.agreement, found.first_agreement) == (1.01, 1, 1, 0)
    assert found.warning == (
        "the cascade of small and large asks large about every sample, to agree with it on 99 % of them: use large "
        "alone, lower the agreement, or take a better first model"
    )


def test_cascade_of_use_has_no_warning() -> None:
    assert choose(*pair([True, False], [0.9, 0.5]), 1.0).warning is None


@pytest.mark.parametrize(("target", "samples"), [(0.95, 20), (0.29, 100), (0.07, 100), (0.57, 100), (0.1, 10)])
def test_target_is_compared_exactly(target: float, samples: int) -> None:
    """0.29 * 100 is 28.999999999999996 and 0.07 * 100 is 7.000000000000001."""
    needed = round(target * samples)
    sure = [0.9] * needed + [0.5] * (samples - needed)
    assert choose(*pair([True] * needed + [False] * (samples - needed), sure), target).threshold == 0
    fewer = [True] * (needed - 1) + [False] * (samples - needed + 1)
    assert choose(*pair(fewer, sure), target).threshold > 0


@pytest.mark.parametrize(
    ("hits", "samples"), [(1, 1), (10, 10), (19, 20), (1, 20), (263, 264), (251, 264), (500, 1000)]
)
def test_lower_bound_is_where_so_many_hits_have_a_chance_of_5_percent(hits: int, samples: int) -> None:
    def is_likely(millionths: int) -> bool:
        """Tell, in whole numbers, whether a share of hits so high leaves so many a chance above 5 %."""
        million = 10**6
        rest = million - millionths
        ways = sum(math.comb(samples, k) * millionths**k * rest ** (samples - k) for k in range(hits, samples + 1))
        return 20 * ways > million**samples

    bound = round(lower_bound(hits, samples) * 10**6)
    assert lower_bound(hits, samples) == bound / 10**6
    assert not is_likely(bound)
    assert is_likely(bound + 2)


def test_lower_bound_is_the_published_one() -> None:
    assert lower_bound(0, 9) == 0
    assert lower_bound(59, 59) > 0.95 > lower_bound(58, 58)  # "no failure among 59", of any table
    assert lower_bound(299, 299) > 0.99 > lower_bound(298, 298)


def test_lower_bound_about_holds_although_the_threshold_was_chosen_on_the_same_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The figures of the page."""
    monkeypatch.setattr(cascade, "lower_bound", cache(lower_bound))  # of few different counts
    random = np.random.default_rng(0)

    def draw(samples: int) -> tuple[np.ndarray, np.ndarray]:
        sure = np.round(random.beta(2.0, 1.5, samples), 6)
        return sure, random.random(samples) < 1 - sure

    sure, differs = draw(1_000_000)
    truth = {threshold: 1 - np.mean((sure >= threshold) & differs) for threshold in GRID}
    held, met = [], []
    for target, samples in itertools.product((0.9, 0.95, 0.99), (264, 1000)):
        found = []
        for _ in range(1000):
            sure, differs = draw(samples)
            found.append(decide(count_agreement(*pair((~differs).tolist(), sure.tolist())), target))
        held.append(np.mean([truth[each.threshold] >= each.agreement_bound for each in found]))
        met.append(np.mean([truth[each.threshold] >= target for each in found]))
    prose = " ".join(PAGE.read_text("utf-8").split())
    assert f"target was met in {100 * min(met):.0f} to {100 * max(met):.0f} of 100" in prose
    assert f"held in {100 * min(held):.1f} to {100 * max(held):.1f} of 100" in prose


def test_accuracy_counts_whoever_answers() -> None:
    first, then = pair([True, True, False, False], [0.9, 0.3, 0.8, 0.2], labels=(0, 1, 1, 0))
    found = choose(first, then, 0.75).accuracy  # the last two differ; the last is escalated
    assert found is not None
    assert (found.first, found.then, found.cascade) == (0.5, 0.5, 0.75)
    assert choose(*pair([True], [0.5]), 1.0).accuracy is None


def test_labels_of_one_evaluation_are_enough() -> None:
    first, then = pair([True, False], [0.9, 0.3], labels=(0, 0))
    for one, two in ((first, replace(then, labels=None)), (replace(first, labels=None), then)):
        assert choose(one, two, 1.0).accuracy == choose(first, then, 1.0).accuracy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 4}, "got 3 and 4 classes; cascade models of the same classes"),
        ({"top": (0,), "confidences": (0.9,)}, "got 2 and 1 samples; let both recipes'"),
        ({"labels": (0, 2)}, "got sample 1 labelled 1 and 2; let both recipes'"),
        (
            {"descriptions": ("cat", "dog")},
            "got sample 0 described as 'dog' and 'cat'; let",
        ),
    ],
)
def test_answers_to_other_samples_are_refused(change: dict[str, Any], message: str) -> None:
    first, then = pair([True, True], [0.9, 0.9], labels=(0, 1), descriptions=("dog", "cat"))
    with pytest.raises(ModelBuildError, match="'small' and 'large' must ") as caught:
        choose(first, replace(then, **change), 0.9)
    assert message in str(caught.value)


def test_manifest_says_what_to_expect_without_the_curve() -> None:
    more = {"labels": (0, 1), "descriptions": ("photo", "photo")}
    found = choose(*pair([True, False], [0.9, 0.3], **more), 0.99)
    assert found.manifest(cost_per_million={"cascade": 1.5}) == {
        "schema_version": 1,
        "first": {"name": "small", "model_version": "1"},
        "then": {"name": "large", "model_version": "2"},
        "target_agreement": 0.99,
        "threshold": 0.31,
        "samples": 2,
        "descriptions": 1,
        "expected_escalation_rate": 0.5,
        "expected_agreement": 1.0,
        "agreement_lower_bound": 0.223606,
        "first_agreement": 0.5,
        "expected_accuracy": {"first": 1.0, "then": 0.5, "cascade": 0.5},
        "cost_per_million": {"cascade": 1.5},
    }
    bare = choose(*pair([True, False], [0.9, 0.3]), 0.99).manifest()
    assert not {"descriptions", "expected_accuracy", "cost_per_million"} & set(bare)
    assert json.loads(json.dumps(bare)) == bare


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "calibration must have schema version 1, got 2"),
        ({"threshold": "high"}, "threshold"),
        ({"more": 1}, "more"),
    ],
)
def test_json_of_another_kind_is_refused(change: dict[str, Any], message: str) -> None:
    data = json.loads(choose(*pair([True], [0.9]), 0.9).to_json())
    with pytest.raises(ValueError, match=message):
        Calibration.from_json(json.dumps(data | change))


class Models:
    """Artifacts of the tiny network, in a separate stack."""

    def __init__(self, make_recipe: Callable[..., Path], cache: Path, *, bundled: bool = True) -> None:
        self.make_recipe, self.cache = make_recipe, cache
        self.stack = Stack(App(context={} if bundled else {"aws:cdk:bundling-stacks": []}), "Stack")

    def __call__(self, name: str, *, precision: Pinned | None = None, **changes: tuple[str, str]) -> ModelArtifact:
        recipe = self.make_recipe(to=name, **changes)
        recipe.write_text(recipe.read_text().replace('name="tiny"', f'name="{name}"'))
        return ModelArtifact(self.stack, name, recipe=recipe, precision=precision, cache_dir=self.cache)


@pytest.fixture(scope="session")
def built(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A cache with the models that most of these tests take."""

    def make(folder: Path) -> None:
        models = Models(lambda to, **changes: write_recipe(folder / to, **changes), folder / "cache")
        models("small"), models("large", precision=Float32())

    return made_once("cascade", make) / "cache"


@pytest.fixture
def models(built: Path, make_recipe: Callable[..., Path], tmp_path: Path) -> Models:
    return Models(make_recipe, shutil.copytree(built, tmp_path / "cache"))


@pytest.fixture
def unbundled(make_recipe: Callable[..., Path], tmp_path: Path) -> Models:
    return Models(make_recipe, tmp_path / "cache", bundled=False)


@pytest.mark.parametrize("agreement", [True, "0.99", None])
def test_agreement_that_is_no_number_fails(unbundled: Models, agreement: Any) -> None:
    with pytest.raises(PropError, match=r"agreement must be a float, got "):
        calibrate(unbundled("small"), unbundled("large"), agreement=agreement)


@pytest.mark.parametrize("agreement", [0, -0.1, 1.01, 99, math.nan])
def test_agreement_that_is_no_share_fails_even_if_the_stack_is_not_bundled(unbundled: Models, agreement: Any) -> None:
    with pytest.raises(PropError, match=r"agreement must be a share above 0 and at most 1, such as 0\.99, got "):
        calibrate(unbundled("small"), unbundled("large"), agreement=agreement)


def test_placeholder_of_a_stack_that_is_not_bundled_runs_nothing(unbundled: Models, tmp_path: Path) -> None:
    found = calibrate(unbundled("small"), unbundled("large"), agreement=0.99)
    assert (found.threshold, found.samples, found.escalation_rate, found.curve) == (1, 0, 1, ())
    assert (found.first, found.then, found.first_version) == ("small", "large", "unbuilt")
    assert (found.warning, found.summary) == (None, "unbuilt")
    assert "expected_escalation_rate" not in found.manifest()
    assert Calibration.from_json(found.to_json()) == found
    assert not (tmp_path / "cache").exists()


def test_model_whose_first_output_is_no_class_score_fails_even_if_the_stack_is_not_bundled(unbundled: Models) -> None:
    maps = unbundled("maps", recipe=('("batch", 5)', '("batch", 5, 16, 16)'))
    with pytest.raises(ModelBuildError, match=r"first output of 'maps' is 'scores' \('batch', 5, 16, 16\); put the"):
        calibrate(unbundled("small"), maps, agreement=0.99)


def test_process_that_asks_a_model_imports_nothing_that_only_builds_need() -> None:
    code = (
        "import sys; from cdk_inference.model.building.__main__ import _mode; _mode('answers');"
        "print([m for m in ('torch', 'onnx', 'matplotlib', 'aws_cdk') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_models_run_once_for_all_targets(models: Models, capfd: pytest.CaptureFixture[str]) -> None:
    first, then = models("small"), models("large", precision=Float32())
    found = calibrate(first, then, agreement=0.9, lock=False)
    assert (found.samples, found.target, found.threshold) == (32, 0.9, found.threshold)
    assert (found.first_version, found.then_version) == (first.version, then.version)
    assert found.agreement >= 0.9
    told = capfd.readouterr().err.splitlines()[-3:]
    assert [line.partition("(")[0] for line in told[:2]] == ["model small: answers ", "model large: answers "]
    assert told[2] == f"cascade: {found.summary}"

    assert calibrate(first, then, agreement=0.9, lock=False) == found
    strict = calibrate(first, then, agreement=1, lock=False)
    assert (strict.target, strict.agreement, strict.curve) == (1, 1, found.curve)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_calibration_has_the_same_bytes_from_another_folder_and_cache(models: Models, tmp_path: Path) -> None:
    found = calibrate(models("small"), models("large", precision=Float32()), agreement=0.9)
    elsewhere = Models(lambda to, **_: _copied(tmp_path / to, tmp_path / "else" / "where" / to), tmp_path / "other")
    again = calibrate(elsewhere("small"), elsewhere("large", precision=Float32()), agreement=0.9)
    assert again.to_json() == found.to_json()


def _copied(folder: Path, to: Path) -> Path:
    to.mkdir(parents=True)
    for file in folder.glob("*.py"):
        (to / file.name).write_bytes(file.read_bytes())
    return to / "recipe.py"


@pytest.mark.slow
def test_answers_go_to_the_cache_that_is_named_and_damaged_ones_are_made_again(models: Models, tmp_path: Path) -> None:
    first, then = models("small"), models("large", precision=Float32())
    found = calibrate(first, then, agreement=0.9, cache=tmp_path / "mine", lock=False)
    kept = sorted((tmp_path / "mine" / "passes").glob("answers-*/answers.json"))
    assert len(kept) == 2
    assert not list((tmp_path / "cache" / "passes").glob("answers-*"))
    kept[0].write_text("{}")
    assert calibrate(first, then, agreement=0.9, cache=tmp_path / "mine", lock=False) == found


@pytest.mark.slow
def test_each_recipe_imports_its_own_files(models: Models, tmp_path: Path) -> None:
    """Both have a file of the same name, as copies of one project do."""
    evaluation = "def evaluation():\n    return batches("
    data = (f"{evaluation}2)", f"from shared import SEED\n\n{evaluation}SEED)")
    for name, seed in (("small", 2), ("large", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared.py").write_text(f"SEED = {seed}\n")
    seeded = [models(name, data=data) for name in ("small", "large")]
    with_other_samples = calibrate(*seeded, agreement=0.9)
    assert with_other_samples.first_agreement < 1  # the same weights, so the samples differ


@pytest.mark.slow
def test_model_that_depends_on_its_batch_is_asked_one_by_one(models: Models) -> None:
    wide = "torch.nn.Sequential(torch.nn.Linear(16, 128), torch.nn.ReLU(), torch.nn.Linear(128, 5))"
    model = models("dynamic", precision=DynamicInt8(), factory=("torch.nn.Linear(16, 5)", wide))
    assert model.manifest.batch_dependent
    found = calibrate(model, models("large", precision=Float32()), agreement=0.9)
    session = ort.InferenceSession(model.path / "model.onnx", providers=["CPUExecutionProvider"])
    sys.path.insert(0, str(model.project.folder))
    try:
        import data

        images = np.concatenate([batch["images"] for batch in data.evaluation()])
    finally:
        sys.path.remove(str(model.project.folder))
        sys.modules.pop("data", None)
    alone = np.concatenate([session.run(["scores"], {"images": image[None]})[0] for image in images])
    together = session.run(["scores"], {"images": images})[0]
    sure, other = answers(alone).confidences, answers(together).confidences
    assert sure != other
    for point in found.curve:
        assert point.escalation_rate == pytest.approx(np.mean(np.array(sure) < point.threshold), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ("range(4)", "range(3)")}, "got 32 and 24 samples"),
        (
            {"factory": ("Linear(16, 5)", "Linear(16, 4)"), "recipe": ('("batch", 5)', '("batch", 4)')},
            "got 5 and 4 classes",
        ),
    ],
)
def test_models_that_do_not_match_fail(models: Models, changes: dict[str, tuple[str, str]], message: str) -> None:
    with pytest.raises(ModelBuildError, match=f"'small' and 'large' must .*, {message}"):
        calibrate(models("small"), models("large", precision=Float32(), **changes), agreement=0.9)


@pytest.mark.slow
def test_models_whose_classes_have_other_names_fail(models: Models, tmp_path: Path) -> None:
    found = []
    for name, labels in (("small", "ant bee cat dog eel"), ("large", "ant bee dog cat eel"), ("short", "ant bee cat")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels.txt").write_text("\n".join(labels.split()))
        changed = ("max_drop=0.1", 'max_drop=0.1, class_names="labels.txt"')
        found.append(models(name, recipe=changed, precision=Float32()))
    small, large, short = found
    with pytest.raises(ModelBuildError, match="got 'cat' and 'dog' as class 2; cascade models"):
        calibrate(small, large, agreement=0.9)
    with pytest.raises(ModelBuildError, match="got 'dog' and None as class 3"):
        calibrate(small, short, agreement=0.9)


@pytest.mark.slow
def test_data_that_fail_are_named_with_the_model_and_the_log(models: Models, tmp_path: Path) -> None:
    first, then = models("small"), models("large", precision=Float32())
    (then.project.folder / "data.py").write_text("def evaluation():\n    raise RuntimeError('no disk')\n")
    with pytest.raises(ModelBuildError, match=r"model 'large': answers failed with RuntimeError: no disk .*\.log$"):
        calibrate(first, then, agreement=0.9)
    assert not list((tmp_path / "cache" / "passes").glob("answers-large-*"))
    assert not list((tmp_path / "cache" / "models").glob(".answers-*"))


@pytest.mark.slow
def test_data_with_labels_tell_the_accuracy(tmp_path: Path) -> None:
    stack = Stack(App(), "Stack")
    small, large = (
        ModelArtifact(stack, name, recipe=DIGITS, precision=precision)
        for name, precision in (("Small", None), ("Large", Float32()))
    )
    found = calibrate(small, large, agreement=0.999, lock=False)
    assert found.samples == 450
    assert found.accuracy is not None
    assert found.accuracy.first == pytest.approx(small.manifest.metric.quantized, abs=1e-5)
    assert found.accuracy.then == pytest.approx(large.manifest.metric.quantized, abs=1e-5)
    assert 0 < found.escalation_rate < 0.5


@pytest.mark.slow
def test_page_has_the_figures_of_the_reference_models() -> None:
    stack = Stack(App(), "Stack")
    lite0 = ModelArtifact(stack, "Lite0", recipe=LITE / "lite0.py")
    for kind, precision in (("int8", None), ("float16", Float16())):
        lite2 = ModelArtifact(stack, kind, recipe=LITE / "lite2.py", precision=precision)
        for target in (0.9, 0.95, 0.99):
            found = calibrate(lite0, lite2, agreement=target, lock=False)
            assert (found.samples, found.descriptions, found.warning) == (264, 11, None)
            row = [
                kind,
                f"{target:g}",
                f"{found.threshold:.2f}",
                f"{found.escalation_rate:.1%}".replace("%", " %"),
                f"{found.agreement:.4f}",
                f"{found.agreement_bound:.3f}",
            ]
            assert f"| {' | '.join(row)} |" in PAGE.read_text("utf-8")
            if (kind, target) == LOCKED:
                assert calibrate(lite0, lite2, agreement=target, frozen_lock=True) == found
