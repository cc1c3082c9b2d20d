"""The lock of a cascade: what it says, when it holds, and that a synth with one that holds measures nothing."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aws_cdk import App, Stack
from aws_cdk.assertions import Template
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.constructs.model.conftest import write_recipe

from cdk_inference import InferencePipeline, LambdaPlatform, Preprocess, Route, Routing
from cdk_inference.errors import ModelBuildError
from cdk_inference.model import Auto, Calibration, Float16, Float32, StaticInt8, WeightOnly, build_model, calibrate
from cdk_inference.model.artifact import ModelArtifact
from cdk_inference.model.cascade import Answers, count_agreement, decide
from cdk_inference.model.project import open_project
from cdk_inference.model.recipe.targets import ARCHITECTURES
from cdk_inference.model.records.cascade_lock import SUFFIX, Basis, CascadeLock, Entry, LockFile, Side

if TYPE_CHECKING:
    from pathlib import Path

    from tests.constructs.model.conftest import MadeOnce

NAME = f"small+large{SUFFIX}"
TOOLS = {"numpy": "2.4.6", "onnxruntime": "1.31.1"}
BASIS = Basis(Side("a1", Auto(), "x86_64", "d1"), Side("b1", Float16(), "x86_64", "d2"), TOOLS)
ARM = replace(
    BASIS,
    first=replace(BASIS.first, version="a2", target="arm64"),
    then=replace(BASIS.then, version="b2", target="arm64"),
)
NAMES = ("small", "large")

texts = st.text(max_size=8)
precisions = st.sampled_from(
    [Auto(), Auto("size"), Float16(), Float32(), StaticInt8(keep_float=("Conv_1",)), WeightOnly(4)]
)
sides = st.builds(Side, version=texts, precision=precisions, target=st.sampled_from(ARCHITECTURES), data=texts)
bases = st.builds(Basis, sides, sides, st.dictionaries(texts, texts, max_size=3))


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """Draw the counts of a few samples, with labels and descriptions or without."""
    samples = draw(st.integers(1, 12))

    def several(of: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(of, min_size=samples, max_size=samples)))

    classes, sure = st.integers(0, 2), st.integers(0, 10**6).map(lambda millionths: millionths / 10**6)
    labels = several(classes) if draw(st.booleans()) else None
    described = several(texts) if draw(st.booleans()) else None
    one, two = (Answers(n, "0", 3, several(classes), several(sure), labels, described) for n in NAMES)
    return count_agreement(one, two)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    entry = Entry(draw(bases), draw(tables()), ())
    for target in draw(st.lists(st.floats(0.001, 1), max_size=3)):
        entry = entry.decided(decide(entry.table, target))
    return entry


@settings(deadline=None)  # whatever else the machine does
@given(st.lists(entries(), max_size=3))
def test_lock_survives_its_file_with_a_threshold_a_line(
    tmp_path_factory: pytest.TempPathFactory, written: list[Entry]
) -> None:
    lock = CascadeLock("small", "large", tuple(written))
    folder = tmp_path_factory.mktemp("lock")
    text = lock.to_json()
    (folder / NAME).write_text(text)
    for entry in written:
        found = LockFile(*NAMES, folder, folder).find(entry.basis, 0.5)
        assert found in written
        assert found is not None
        assert found.basis.stale(entry.basis, NAMES) is None
    parsed = json.loads(text)
    lines = [line.strip().rstrip(",") for line in text.splitlines()]
    rows = [json.dumps(row) for entry in parsed["entries"] for row in entry["table"]["rows"]]
    assert [line for line in lines if line.startswith("[") and line.endswith("]")] == rows
    assert parsed == lock.to_data() | {"checksum": lock.digest}


@settings(deadline=None)  # whatever else the machine does
@given(tables(), st.floats(0.001, 1), st.floats(0.001, 1))
def test_decisions_are_sorted_and_one_for_a_target(table: Any, one: float, two: float) -> None:
    entry = Entry(BASIS, table, ())
    found = entry.decided(decide(table, one)).decided(decide(table, two)).decided(decide(table, one))
    assert [decision.target_agreement for decision in found.decisions] == sorted({one, two})
    assert found.decision(one) == decide(table, one)
    assert entry.decision(one) is None


def entry_of(basis: Basis, *targets: float) -> Entry:
    answers = Answers("small", "0", 2, (0, 1, 1, 0), (0.9, 0.8, 0.7, 0.6), None, None)
    entry = Entry(basis, count_agreement(answers, replace(answers, name="large", top=(0, 1, 0, 0))), ())
    for target in targets:
        entry = entry.decided(decide(entry.table, target))
    return entry


def changed(basis: Basis, *, side: str = "first", **changes: Any) -> Basis:
    return replace(basis, **{side: replace(getattr(basis, side), **changes)})


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (BASIS, None),
        (changed(BASIS, precision=Float32(), target="any"), None),  # the same bytes
        (changed(BASIS, data="d"), "the evaluation of 'small' or a file in its folder changed"),
        (
            changed(BASIS, side="then", data="d", version="b"),
            "the evaluation of 'large' or a file in its folder changed",
        ),
        (changed(BASIS, version="a"), "'small' a1 -> a"),
        (replace(BASIS, tools=TOOLS | {"numpy": "3"}), "numpy 2.4.6 -> 3"),
        (replace(changed(BASIS, version="a"), tools=TOOLS | {"pillow": "12"}), "pillow none -> 12, 'small' a1 -> a"),
        (changed(BASIS, version="a", target="arm64"), "it knows nothing of 'small' a with 'large' b1"),
    ],
)
def test_entry_holds_for_versions_data_and_tools(now: Basis, reason: str | None) -> None:
    entry = entry_of(BASIS, 0.9)
    found = CascadeLock(*NAMES, (entry_of(changed(ARM, data="old"), 0.9), entry)).find(now)
    assert found == (entry if reason is None else reason)


def test_lock_holds_one_entry_for_each_architecture_and_precision() -> None:
    pinned = changed(BASIS, side="then", precision=StaticInt8(), version="b3")
    written = [entry_of(basis, 0.9) for basis in (BASIS, ARM, pinned)]
    locks = set()
    for order in itertools.permutations(written):
        lock = CascadeLock(*NAMES, ())
        for entry in order:
            lock = lock.recorded(entry)
        assert [lock.find(entry.basis) for entry in written] == written
        locks.add(lock.to_json())
    assert len(locks) == 1  # whoever synthesizes first


def test_entry_replaces_that_of_other_bytes_for_the_same_and_those_of_other_data() -> None:
    newer = entry_of(changed(BASIS, version="a9"), 0.9)
    lock = CascadeLock(*NAMES, ()).recorded(entry_of(BASIS, 0.9)).recorded(entry_of(ARM, 0.8)).recorded(newer)
    assert [entry.basis for entry in lock.entries] == [ARM, newer.basis]
    other = entry_of(changed(BASIS, data="d9"), 0.9)
    assert lock.recorded(other).entries == (other,)
    upgraded = entry_of(replace(BASIS, tools=TOOLS | {"numpy": "3"}), 0.9)
    assert lock.recorded(upgraded).entries == (upgraded,)


LOCK = CascadeLock(*NAMES, (entry_of(BASIS, 0.9),))
DATA = json.loads(LOCK.to_json())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("<<<<<<< HEAD\n" + LOCK.to_json(), "Expecting value"),
        ("[]", "it has schema version None, expected 1"),
        (json.dumps(DATA | {"schema_version": 2}), "it has schema version 2, expected 1"),
        (json.dumps(DATA | {"threshold": 1}), r"extra fields found \(threshold\)"),
        (json.dumps(DATA | {"entries": [{}]}), "basis"),
        (LOCK.to_json().replace('"threshold": 0.71', '"threshold": 0.5'), "its checksum is not that of its content"),
    ],
    ids=["empty", "merge", "list", "newer", "more", "less", "edited"],
)
def test_damaged_lock_fails_with_the_way_out(tmp_path: Path, text: str, reason: str) -> None:
    assert text != LOCK.to_json()
    (tmp_path / NAME).write_text(text)
    file = LockFile(*NAMES, tmp_path, tmp_path / "cache")
    with pytest.raises(
        ModelBuildError, match=rf"{NAME.replace('+', '.')} cannot be used: .*{reason}.*; restore it, or del"
    ):
        file.find(BASIS, 0.9)
    with pytest.raises(ModelBuildError, match="cannot be used"):
        file.record(entry_of(BASIS, 0.9))
    assert (tmp_path / NAME).read_text() == text


def test_lock_of_other_models_fails(tmp_path: Path) -> None:
    """Names of recipes have dashes, so that a name with dashes could be that of two pairs."""
    (tmp_path / NAME).write_text(CascadeLock("large", "small", ()).to_json())
    with pytest.raises(ModelBuildError, match="must be of 'small' and 'large', got 'large' and 'small'; rename it, or"):
        LockFile(*NAMES, tmp_path, tmp_path).find(BASIS, 0.9)


# The same files, and other samples: a machine on which everything would be measured otherwise.
OTHERWISE = ("    for _ in range(4):", "    import os\n    for _ in range(int(os.environ.get('BATCHES', 4))):")


class Models:
    """Two artifacts of the tiny network in one stack, built once and opened from copies of their recipes."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.lock = folder / "small" / NAME
        self.stack = Stack(App(), "Stack")
        self.first, self.then = self.artifact("small"), self.artifact("large", precision=Float32())

    def artifact(self, name: str, **props: Any) -> ModelArtifact:
        identifier = f"{name}{len(self.stack.node.children)}"
        recipe = self.folder / name / "recipe.py"
        return ModelArtifact(self.stack, identifier, recipe=recipe, cache_dir=self.cache, **props)

    def calibrate(self, agreement: float = 0.9, **options: Any) -> Calibration:
        return calibrate(self.first, self.then, agreement=agreement, **options)


@pytest.fixture(scope="session")
def built(made_once: MadeOnce) -> Path:
    """Folder with the recipes, and a cache that has their models and what they answer."""

    def make(root: Path) -> None:
        for name in NAMES:
            recipe = write_recipe(root / name, data=OTHERWISE)
            recipe.write_text(recipe.read_text().replace('name="tiny"', f'name="{name}"'))
        Models(root, root / "cache").calibrate(lock=False)

    return made_once("cascade lock", make)


@pytest.fixture
def models(built: Path, tmp_path: Path) -> Models:
    """The recipes in a folder of this test, with a copy of the cache of all."""
    for name in NAMES:
        shutil.copytree(built / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Models(tmp_path, shutil.copytree(built / "cache", tmp_path / "models"))


def ran(cache: Path) -> list[Path]:
    """Logs of processes that ran models over their data, and what they left."""
    return [*cache.glob("models/answers-*.log"), *cache.glob("passes/answers-*")]


@pytest.mark.slow
def test_calibration_is_recorded_beside_the_first_recipe(
    models: Models, built: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = models.calibrate()
    assert capfd.readouterr().err == f"cascade: {found.summary}\n"
    lock = json.loads(models.lock.read_text())
    assert (lock["first"], lock["then"]) == NAMES
    (entry,) = lock["entries"]
    assert [entry["basis"][side]["version"] for side in ("first", "then")] == [
        models.first.version,
        models.then.version,
    ]
    assert set(entry["basis"]["tools"]) == {"numpy", "onnxruntime", "pillow"}
    (decision,) = entry["decisions"]
    assert decision == {
        "target_agreement": 0.9,
        "threshold": found.threshold,
        "escalation_rate": found.escalation_rate,
        "agreement": found.agreement,
        "agreement_bound": found.agreement_bound,
        "accuracy": None,
    }
    assert [row[0] for row in entry["table"]["rows"]] == [point.threshold for point in found.curve]
    assert found == models.calibrate(lock=False)
    assert sorted(p.name for p in (models.folder / "small").iterdir()) == sorted(
        [NAME, *(p.name for p in (built / "small").iterdir() if p.suffix == ".py")]
    )


@pytest.mark.slow
def test_lock_that_holds_starts_no_process(
    models: Models, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = models.calibrate()
    text = models.lock.read_bytes()
    capfd.readouterr()
    monkeypatch.setenv("BATCHES", "2")  # what is measured here would be something else
    assert models.calibrate(cache=tmp_path / "fresh") == found
    assert models.calibrate(cache=tmp_path / "fresh", frozen_lock=True) == found
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "fresh").exists()
    assert models.lock.read_bytes() == text
    assert models.calibrate(cache=tmp_path / "fresh", lock=False).samples == 16  # the same, if asked to measure
    assert ran(tmp_path / "fresh")
    assert models.lock.read_bytes() == text


@pytest.mark.slow
def test_other_target_is_decided_by_the_table(
    models: Models, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = models.calibrate(0.9)
    capfd.readouterr()
    monkeypatch.setenv("BATCHES", "2")
    strict = models.calibrate(1, cache=tmp_path / "fresh")
    assert capfd.readouterr().err == f"cascade: {strict.summary}\n"
    assert not ran(tmp_path / "fresh")
    assert (strict.target, strict.agreement, strict.samples, strict.curve) == (1, 1, 32, first.curve)
    for target, found in ((0.9, first), (1, strict)):
        assert models.calibrate(target, frozen_lock=True) == found
    monkeypatch.delenv("BATCHES")
    assert models.calibrate(1, lock=False) == strict


@pytest.mark.slow
def test_lock_is_no_file_of_the_recipe(models: Models) -> None:
    recipe = models.folder / "small" / "recipe.py"
    before = open_project(recipe).fingerprint
    models.calibrate()
    assert models.lock.is_file()
    (models.lock.parent / f".1.{NAME}.partial").write_text("half")
    assert open_project(recipe).fingerprint == before
    assert build_model(recipe, cache=models.cache).version == models.first.version


@pytest.mark.slow
def test_models_of_two_architectures_have_an_entry_each(models: Models) -> None:
    arm = models.calibrate()
    of_arm = models.first
    models.first = models.artifact("small", platform=LambdaPlatform(architecture="x86_64"))
    assert models.first.version != of_arm.version
    x86 = models.calibrate()
    assert x86.first_version == models.first.version
    assert models.calibrate(frozen_lock=True) == x86
    models.first = of_arm
    assert models.calibrate(frozen_lock=True) == arm
    targets = [entry["basis"]["first"]["target"] for entry in json.loads(models.lock.read_text())["entries"]]
    assert targets == ["arm64", "x86_64"]


def rewrite(file: Path, change: Any) -> None:
    """Change the only entry of a lock, with a checksum that is right."""
    (entry,) = LockFile(*NAMES, file.parent, file.parent)._read(file).entries
    file.write_text(CascadeLock(*NAMES, (replace(entry, basis=change(entry.basis)),)).to_json())


STALE = [
    (lambda basis: changed(basis, version="0" * 12), "'small' 000000000000 -> {first}"),
    (lambda basis: changed(basis, side="then", version="0" * 12), "'large' 000000000000 -> {then}"),
    (lambda basis: changed(basis, side="then", data="0"), "the evaluation of 'large' or a file in its folder changed"),
    (lambda basis: replace(basis, tools=basis.tools | {"pillow": "1.0"}), "pillow 1.0 -> {pillow}"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "reason"), STALE)
def test_stale_lock_is_measured_anew_and_says_why(
    models: Models, change: Any, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = models.calibrate()
    text = models.lock.read_text()
    rewrite(models.lock, change)
    capfd.readouterr()
    reason = reason.format(
        first=models.first.version, then=models.then.version, pillow=models.first.project.tools["pillow"]
    )
    with pytest.raises(
        ModelBuildError, match=r"one that does not: .*; synthesize without a frozen lock, review"
    ) as error:
        models.calibrate(frozen_lock=True)
    assert f"the frozen lock {models.lock} must fit 'small' and 'large', got one that does not: {reason}; " in str(
        error.value
    )
    assert capfd.readouterr().err == ""
    assert models.calibrate() == found
    assert capfd.readouterr().err.splitlines() == [
        f"cascade of small and large: the lock does not fit, measuring again: {reason}",
        f"cascade: {found.summary}",
    ]
    assert models.lock.read_text() == text


@pytest.mark.slow
def test_file_in_the_folder_that_changes_makes_the_lock_stale(
    models: Models, capfd: pytest.CaptureFixture[str]
) -> None:
    models.calibrate()
    data = models.folder / "large" / "data.py"
    data.write_text(data.read_text().replace("batches(2)", "batches(3)"))
    capfd.readouterr()
    models.then = models.artifact("large", precision=Float32())
    found = models.calibrate()
    assert "measuring again: the evaluation of 'large' or a file in its folder changed\n" in capfd.readouterr().err
    assert found == models.calibrate(frozen_lock=True) == models.calibrate(lock=False)
    assert json.loads(models.lock.read_text())["entries"][0]["table"]["samples"] == 32


@pytest.mark.slow
@pytest.mark.parametrize("how", ["argument", "environment", "first", "then"])
def test_frozen_lock_fails_rather_than_measure(
    models: Models, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"cache": tmp_path / "fresh"}
    match how:
        case "argument":
            options["frozen_lock"] = True
        case "environment":
            monkeypatch.setenv("CDK_INFERENCE_FROZEN_LOCK", "1")
        case "first":
            models.first = models.artifact("small", frozen_lock=True)
        case "then":
            models.then = models.artifact("large", precision=Float32(), frozen_lock=True)
    with pytest.raises(ModelBuildError, match=r"small\+large\.cascade\.lock\.json must fit .*: there is none; synth"):
        models.calibrate(**options)
    file = LockFile(*NAMES, models.lock.parent, models.cache)
    monkeypatch.delenv("CDK_INFERENCE_FROZEN_LOCK", raising=False)
    calibrate(models.artifact("small"), models.artifact("large", precision=Float32()), agreement=0.95)
    if how == "environment":
        monkeypatch.setenv("CDK_INFERENCE_FROZEN_LOCK", "1")
    text = file.path.read_bytes()
    with pytest.raises(
        ModelBuildError,
        match=r"one that does not: it has no threshold for an agreement of 0\.9, only for 0\.95; synthesize",
    ):
        models.calibrate(**options)
    assert models.calibrate(0.95, **options).target == 0.95
    assert file.path.read_bytes() == text
    assert not (tmp_path / "fresh").exists()


@pytest.mark.slow
def test_damaged_lock_fails_before_anything_is_measured(models: Models, tmp_path: Path) -> None:
    models.lock.write_text("<<<<<<< HEAD")
    with pytest.raises(
        ModelBuildError, match=r"the lock .*small\+large\.cascade\.lock\.json cannot be used: .*; restore"
    ):
        models.calibrate(cache=tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


@pytest.mark.slow
def test_first_recipe_in_a_folder_that_cannot_be_written_keeps_its_threshold_in_the_cache(
    models: Models, tmp_path: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(models.cache, cache)
    for folder in (tmp_path, *(parent for parent in tmp_path.parents if "pytest" in parent.as_posix())):
        folder.chmod(0o755)
    for path in (cache, *cache.rglob("*")):
        path.chmod(0o777)
    models.lock.parent.chmod(0o555)
    request.getfixturevalue("unprivileged")
    found = models.calibrate(cache=cache)
    assert capfd.readouterr().err.splitlines() == [
        f"cascade of small and large: cannot write the lock {models.lock} (Permission denied): other machines may find "
        "another threshold",
        f"cascade: {found.summary}",
    ]
    (kept,) = cache.glob(f"models/*{SUFFIX}")
    assert models.calibrate(cache=cache) == found
    assert capfd.readouterr().err == ""
    models.calibrate(0.8, cache=cache)
    assert len(json.loads(kept.read_text())["entries"][0]["decisions"]) == 2
    with pytest.raises(ModelBuildError, match="one that does not: there is none"):
        models.calibrate(cache=cache, frozen_lock=True)
    assert not models.lock.exists()


SYNTH = """
import sys
from aws_cdk import App, Stack
from cdk_inference.model import Float32, calibrate
from cdk_inference.model.artifact import ModelArtifact
folder, models, cache, target = sys.argv[1:]
stack = Stack(App(), "Stack")
first, then = (
    ModelArtifact(stack, name, recipe=f"{folder}/{name}/recipe.py", precision=precision, cache_dir=models)
    for name, precision in (("small", None), ("large", Float32()))
)
print(calibrate(first, then, agreement=float(target), cache=cache).to_json())
"""


@pytest.mark.slow
def test_two_synths_at_once_measure_once_and_both_are_recorded(models: Models, tmp_path: Path) -> None:
    targets = (0.9, 1.0)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SYNTH, models.folder, models.cache, tmp_path / "fresh", f"{target}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for target in targets
    ]
    ended = [process.communicate() for process in running]
    told = "".join(errors for _, errors in ended)
    assert [process.returncode for process in running] == [0, 0], told
    for name in NAMES:
        assert told.count(f"model {name}: answers") == 1
    for target, (printed, _) in zip(targets, ended, strict=True):
        assert models.calibrate(target, frozen_lock=True).to_json().strip() == printed.strip()


def template_of(models: Models) -> dict[str, Any]:
    first, then = (
        Route(name, model=model, preprocess=Preprocess.image(size=16))
        for name, model in (("first", models.first), ("then", models.then))
    )
    InferencePipeline(models.stack, "Photos", routing=Routing.cascade(first=first, then=then, agreement=0.9))
    template: dict[str, Any] = Template.from_stack(models.stack).to_json()
    return template


@pytest.mark.slow
def test_two_machines_synthesize_the_same_template(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has an empty cache, builds both models, and would measure something else."""
    template = template_of(models)
    (cascades,) = [
        each["Metadata"]["cdk-inference"]["cascades"]
        for each in template["Resources"].values()
        if each["Type"] == "AWS::StepFunctions::StateMachine"
    ]
    assert cascades[0]["samples"] == 32
    other, without = Models(models.folder, tmp_path / "cache"), Models(models.folder, tmp_path / "cache")
    monkeypatch.setenv("BATCHES", "2")
    assert template_of(other) == template
    assert list(other.cache.glob("models/small-*.log"))
    assert not list(other.cache.glob("models/answers-*"))
    models.lock.unlink()  # without it, they differ
    assert template_of(without) != template
