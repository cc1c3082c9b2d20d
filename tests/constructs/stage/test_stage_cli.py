"""``python -m cdk_inference.stage``: what it shows, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from typer.testing import CliRunner

from cdk_inference import Postprocess, Preprocess
from cdk_inference.stage import report
from cdk_inference.stage.arrays import facts, read_arrays, write_arrays
from cdk_inference.stage.choice import BUILTIN
from cdk_inference.stage.cli import app, main
from cdk_inference.stage.report import as_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "model_assets" / "digits_cnn"
PHOTOGRAPH = ROOT / "model_assets" / "photographs" / "chelsea.png"
CODE = """
import json

import numpy as np
from inference_runtime import RejectItem

SIZE = 8


def preprocess(data, item):
    print("a line of the stage's own")
    if data == b"no":
        raise RejectItem(f"{item.bucket}/{item.key} says no")
    numbers = json.loads(data)
    return {"images": np.full((SIZE, SIZE), numbers[0], np.uint8), "count": len(numbers)}


def postprocess(outputs, item):
    return {"best": int(outputs["logits"].argmax()), "count": item.kept.get("count"), "raw": b"ab"}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a folder with a file of stages and an object; returns the exit code and what it wrote."""
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "object.json").write_text("[3, 4]")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stage", "run", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capfd.readouterr())

    return run


def test_inputs_are_shown_and_the_whole_chain_makes_a_row(run: Run, tmp_path: Path) -> None:
    code, out, err = run("own.py:preprocess", "object.json", "--keep", "count", "--model", DIGITS / "recipe.py")
    assert (code, err) == (0, "a line of the stage's own\n")
    assert out.splitlines()[0].startswith("READY (preprocessing took ")
    assert out.splitlines()[1:] == [
        "input      images: uint8 [8, 8], 3 to 3, mean 3",
        'kept       {"count": 2}',
    ]

    chain = ("own.py:preprocess", "object.json", "--keep", "count", "--model", DIGITS / "recipe.py")
    code, out, _ = run(*chain, "--postprocess", "own.py:postprocess", "--save", "outputs.npz", "--json")
    said = json.loads(out)
    assert (code, said["status"], said["reason"]) == (0, "SUCCEEDED", None)
    assert said["inputs"] == {"images": {"dtype": "uint8", "shape": [8, 8], "min": 3, "max": 3, "mean": 3}}
    assert (said["outputs"]["logits"]["dtype"], said["outputs"]["logits"]["shape"]) == ("float32", [10])
    assert said["row"]["prediction"] == {"best": said["row"]["prediction"]["best"], "count": 2, "raw": "YWI="}
    assert said["row"]["key"] == "object.json"

    # A postprocessing takes the file that was saved.
    model = ("--model", DIGITS / "recipe.py")
    code, out, _ = run("own.py:postprocess", "outputs.npz", *model, "--kept", '{"count": 2}', "--json")
    assert (code, json.loads(out)["row"]["prediction"]) == (0, said["row"]["prediction"])
    np.save(tmp_path / "logits.npy", np.load(tmp_path / "outputs.npz")["logits"])
    labels = f"labels={DIGITS / 'labels.txt'}"
    code, out, _ = run("classification", "logits.npy", *model, "--option", labels, "-o", "top=1", "--key", "a/b")
    row = dict(line.removeprefix("row").strip().split(": ", 1) for line in out.splitlines()[1:])
    assert (code, out.splitlines()[0], row["key"]) == (0, "SUCCEEDED", '"a/b"')
    assert json.loads(row["prediction"])["class_index"] == said["row"]["prediction"]["best"]


def test_a_built_in_stage_runs_on_stdin_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "cdk_inference.stage", "run", "image", "-", "-o", "size=32", "--json"]
    done = subprocess.run(command, input=PHOTOGRAPH.read_bytes(), cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["inputs"]["input"]["shape"] == [32, 32, 3]


APP = """
import sys
from pathlib import Path

from aws_cdk import App, Stack

from cdk_inference import Explain, InferencePipeline, ModelArtifact, Postprocess, Preprocess
from names import MODEL

assert sys.argv == ["app.py"]
app = App()
stack = Stack(app, "Digits")
preprocess = Preprocess.function("own.py:preprocess", keep=["count"])
model = ModelArtifact(stack, "Model", recipe=MODEL / "recipe.py")
InferencePipeline(
    stack, "Own", model=model, preprocess=preprocess, postprocess=Postprocess.function("own.py:postprocess")
)
if app.node.try_get_context("two"):
    InferencePipeline(stack, "Stored", model=model, preprocess=preprocess, explain=Explain.on_request())
app.synth()
"""


def test_the_pipeline_of_an_app_runs_as_it_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "names.py").write_text(f"from pathlib import Path\nMODEL = Path({str(DIGITS)!r})")

    def score(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cdk_inference.stage", "pipeline", "app.py", "object.json", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = score("--json", "--key", "a/b")
    said = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "a line of the stage's own\n")  # nothing is bundled
    assert (said["row"]["key"], said["row"]["kept"], said["kept"]) == ("a/b", {"count": 2}, {"count": 2})
    assert said["row"]["prediction"]["count"] == 2
    assert not (tmp_path / "cdk.out").exists()

    (tmp_path / "cdk.json").write_text('{"context": {"two": true}}')
    done = score("--pipeline", "Digits/Other")
    assert done.returncode == 1
    assert done.stderr == "error: pipeline must be 'Digits/Own' or 'Digits/Stored', got 'Digits/Other'\n"
    done = score("--pipeline", "Digits/Stored", "--explain")
    assert (done.returncode, "logits" in done.stdout) == (0, True), done.stderr
    assert done.stdout.count("\nexplained ") == 9  # the facts, and a line for each row of the grid


def test_an_explanation_is_read_by_a_person() -> None:
    facts = {"status": "SUCCEEDED", "reason": None}
    grid = {"method": "occlusion", "label": "circle", "score": 0.75, "grid": [[0.0, 0.3], [0.5, 1.0]]}
    tokens = {"method": "leave_one_out", "tokens": [{"token": "no\n", "weight": -0.25}]}
    values = {"method": "shapley", "values": {"age": 0.5}, "base": 0.25}
    for explanation, lines in (
        (grid, ["method occlusion, label circle, score 0.75", "··░░", "▒▒██"]),
        (tokens, ["method leave_one_out", '  -0.2500 "no\\n"']),
        (values, ["method shapley, base 0.25", "  +0.5000 age"]),
        ({"method": "rise", "reason": "no time"}, ["method rise, reason no time"]),
    ):
        _, *shown = report.lines({**facts, "row": {"explanation": explanation}})
        assert shown == [f"explained  {line}" for line in lines]


def test_each_stage_that_needs_no_code_has_a_name() -> None:
    for kind, of in (("preprocess", Preprocess), ("postprocess", Postprocess)):
        made = {name for name, value in vars(of).items() if isinstance(value, classmethod) and not name.startswith("_")}
        assert made - {"function"} == {name for name, kinds in BUILTIN.items() if kind in kinds}


def test_an_object_that_is_rejected_exits_with_3(run: Run, tmp_path: Path) -> None:
    (tmp_path / "object.json").write_text("no")
    code, out, _ = run("own.py:preprocess", "object.json", "--key", "a/b", "--bucket", "photos")
    assert (code, out.split(" (")[0]) == (3, "REJECTED: photos/a/b says no")
    chain = ("--model", DIGITS / "recipe.py", "--postprocess", "outputs", "--json")
    code, out, _ = run("own.py:preprocess", "object.json", *chain)
    said = json.loads(out)
    assert (code, said["status"], said["outputs"]) == (3, "REJECTED", {})
    assert said["row"]["reason"] == said["reason"] == "inbox/object.json says no"


def test_a_bug_shows_the_users_frames_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "object.json").write_text("[3,")
    code, out, err = run("own.py:preprocess", "object.json")
    assert (code, out) == (1, "")
    assert err.count("File ") == 1
    assert f'File "{tmp_path / "own.py"}", line 14, in preprocess\n    numbers = json.loads(data)' in err
    assert "json.decoder.JSONDecodeError: Expecting value" in err
    assert err.endswith("error: the stage failed; in AWS the object is tried again and becomes a dead letter\n")

    code, out, err = run("own.py:preprocess", "object.json", "--json")
    said = json.loads(out)
    assert (code, err, said["status"], said["error"]) == (1, "a line of the stage's own\n", "ERROR", "JSONDecodeError")
    assert (said["traceback"].count("File "), said["reason"]) == (1, "Expecting value: line 1 column 4 (char 3)")

    (tmp_path / "needs.py").write_text("import absent_package\ndef preprocess(data, item): ...")
    code, out, err = run("needs.py:preprocess", "object.json")
    assert (code, out, err.count("File ")) == (1, "", 1)
    assert err.splitlines()[-1] == (
        'error: STAGE_FUNCTION is "needs:preprocess", but importing "needs" failed: '
        "No module named 'absent_package'; add what is missing to the stage's code or requirements"
    )
    (tmp_path / "wrong.py").write_text("def preprocess(data, item): return data.")
    code, _, err = run("wrong.py:preprocess", "object.json")
    assert (code, "SyntaxError: invalid syntax" in err, "cdk_inference" in err) == (1, True, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("own.py:preprocess", "absent.json"), "input must be an existing file or -, got 'absent.json'; looked in"),
        (("absent.py:preprocess", "object.json"), "stage must be in an existing file, got 'absent.py'"),
        (
            ("image", "object.json", "--kind", "postprocess"),
            "postprocess must be 'path/to/file.py:function' or one of text,",
        ),
        (("picture", "object.json"), "stage must be 'path/to/file.py:function' or one of image, json, csv, text"),
        (("image", "object.json", "-o", "sise=8"), "options must be those of Preprocess.image, size, resize"),
        (("image", "object.json", "-o", "size"), "option must be of the form name=value, got 'size'"),
        (("own.py:preprocess", "object.json", "-o", "size=8"), "option must be left out with a function of yours"),
        (("own.py:postprocess", "object.json"), "input of a postprocessing must be an .npz or .npy file, got object"),
        (("own.py:postprocess", "object.json", "--kept", "[1]"), "kept must be a JSON object, got '[1]'"),
        (("own.py:postprocess", "object.json", "--kept", "{"), "kept must be a JSON object, got '{'"),
        (("own.py:preprocess", "object.json", "--model", "."), "model must be a recipe or a folder with manifest.json"),
        (
            ("own.py:preprocess", "object.json", "--timeout", "0.1", "--keep", "nothing"),
            "preprocess returned no nothing",
        ),
    ],
)
def test_what_cannot_work_fails_in_one_line(run: Run, arguments: tuple[str, ...], says: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: {says}")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("own.py:preprocess", "object.json", "--kept", "{}"), "--kept does not go with a preprocessing stage"),
        (("own.py:postprocess", "object.json", "--save", "a"), "--save does not go with a postprocessing stage"),
        (("classification", "object.json", "--keep", "a"), "--keep does not go with a postprocessing stage"),
        (("own.py:preprocess", "object.json", "--postprocess", "outputs"), "--postprocess needs --model"),
        (("own.py:preprocess", "object.json", "--postprocess-option", "a=1"), "--postprocess-option needs"),
        (("own.py:preprocess", "object.json", "--kind", "inference"), "'inference' is not one of"),
    ],
)
def test_wrong_usage_exits_with_2(run: Run, arguments: tuple[str, ...], says: str) -> None:
    result: Result = CliRunner().invoke(app, ["run", *arguments], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert says in result.output


def test_a_kind_may_be_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "unsaid.py").write_text("def both(one, other): return {'a': 1}")
    np.save(tmp_path / "y.npy", np.ones(3))
    assert run("unsaid.py:both", "y.npy", "--kind", "postprocess")[:2][0] == 0
    code, _, err = run("unsaid.py:both", "y.npy")
    assert code == 0, err


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda name: "\0" not in name and not name.endswith(".npy")),
        arrays.arrays(
            st.sampled_from(["uint8", "int64", "uint64", "float16", "float64", "bool"]),
            arrays.array_shapes(min_dims=0, min_side=0, max_side=3),
        ),
        max_size=3,
    )
)
def test_any_arrays_survive_a_file_and_have_facts(
    tmp_path_factory: pytest.TempPathFactory, named: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "arrays.npz"
    write_arrays(path, named)
    found = read_arrays(path.read_bytes(), "a file", "unused")
    assert found.keys() == named.keys()
    for name, array in named.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        about, finite = json.loads(as_json(facts(array))), array[np.isfinite(array)]
        assert (about["dtype"], about["shape"]) == (array.dtype.name, [*array.shape])
        assert about.get("not_finite", 0) == array.size - finite.size
        if finite.size:
            assert (about["min"], about["max"]) == (finite.min(), finite.max())
            assert float(about["min"]) <= about["mean"] <= float(about["max"])
