"""User code is found by what the environment says, and a wrong environment says what is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from inference_runtime.environment import json_variable
from inference_runtime.errors import StageError
from inference_runtime.stages.user_code import load_stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_function_is_loaded(stage: Callable[[str], str]) -> None:
    stage("def function(data, item): return data * 2")
    assert load_stage()(b"x", None) == b"xx"


def test_options_make_the_function_from_a_factory(stage: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    stage("def function(times): return lambda data, item: data * times")
    monkeypatch.setenv("STAGE_OPTIONS", '{"times": 3}')
    assert load_stage()(b"x", None) == b"xxx"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "STAGE_FUNCTION is not set"),
        ("module", 'expected "module:function"'),
        ("no_such_module_here:f", "importing"),
        ("json:no_such", 'no function "no_such"'),
        ("json:__name__", "no function"),
    ],
)
def test_a_wrong_name_fails_and_says_why(monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    monkeypatch.setenv("STAGE_FUNCTION", name)
    with pytest.raises(StageError, match=says):
        load_stage()


@pytest.mark.parametrize(
    ("code", "options", "says"),
    [
        ("def function(size): ...", '{"sise": 3}', "sise"),
        ("def function(size): raise ValueError('size is 0')", '{"size": 0}', "size is 0"),
        ("def function(size): ...", '{"size": 3}', "must return a function, got NoneType"),
        ("def function(size): ...", "[3]", "STAGE_OPTIONS is list, expected dict"),
        ("def function(size): ...", "{", "STAGE_OPTIONS is not JSON"),
    ],
)
def test_wrong_options_fail_and_are_named(
    stage: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, code: str, options: str, says: str
) -> None:
    stage(code)
    monkeypatch.setenv("STAGE_OPTIONS", options)
    with pytest.raises(StageError, match=says):
        load_stage()


@pytest.fixture
def options_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path / "task"))
    (tmp_path / "task" / "stage").mkdir(parents=True)
    return tmp_path / "task" / "stage" / "options.json"


def test_options_may_be_in_a_file_of_any_size(
    stage: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, options_file: Path
) -> None:
    stage("def function(fields): return lambda data, item: (len(fields), fields[0])")
    monkeypatch.setenv("STAGE_OPTIONS_FILE", "stage/options.json")
    options_file.write_text(json.dumps({"fields": ["größe", *(f"field {n}" for n in range(2000))]}, ensure_ascii=False))
    assert load_stage()(b"", None) == (2001, "größe")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read STAGE_OPTIONS_FILE.*options.json"),
        (b"\xff", "cannot read STAGE_OPTIONS_FILE"),
        (b"{", "options.json is not JSON"),
        (b"[3]", "options.json is list, expected dict"),
        (b'{"sise": 3}', "sise"),
    ],
)
def test_a_wrong_options_file_fails_and_is_named(
    stage: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    options_file: Path,
    content: bytes | None,
    says: str,
) -> None:
    stage("def function(size): return lambda data, item: size")
    monkeypatch.setenv("STAGE_OPTIONS_FILE", "stage/options.json")
    if content is not None:
        options_file.write_bytes(content)
    with pytest.raises(StageError, match=says):
        load_stage()


def test_user_code_with_a_missing_requirement_fails_and_names_it(stage: Callable[[str], str]) -> None:
    stage("import a_requirement_that_is_missing\ndef function(data, item): ...")
    with pytest.raises(StageError, match="a_requirement_that_is_missing"):
        load_stage()


def test_a_missing_variable_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_INPUTS", raising=False)
    with pytest.raises(StageError, match="MODEL_INPUTS is not set"):
        json_variable("MODEL_INPUTS", list)
