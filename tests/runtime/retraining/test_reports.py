"""Reports of jobs: one that does not fit its run and its weights is believed by nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_runtime.retraining.reports import ReportError, build_report, training_report

RUN: dict[str, Any] = {"run": "r", "execution": "e"}
SHA256 = "a" * 64
TRAINED = RUN | {"weights": "w.safetensors", "sha256": SHA256, "size": 3}
PASSED = RUN | {"status": "PASSED", "sha256": SHA256, "model": "digits", "version": "v1"}


def written(said: object) -> bytes:
    return json.dumps(said).encode()


def test_what_jobs_report_is_taken() -> None:
    assert training_report(written(TRAINED), **RUN) == {"weights": "w.safetensors", "sha256": SHA256, "size": 3}
    passed = build_report(written(PASSED), **RUN, sha256=SHA256)
    assert passed == {"status": "PASSED", "reason": "", "model": "digits", "version": "v1"}
    refused = build_report(
        written(RUN | {"status": "REFUSED", "sha256": SHA256, "reason": "w" * 2000}), **RUN, sha256=SHA256
    )
    assert refused == {"status": "REFUSED", "reason": "w" * 1000, "model": "", "version": ""}


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "another"},
        {"execution": "another"},
        {"weights": "../w"},
        {"weights": None},
        {"sha256": "a"},
        {"size": 0},
        {"size": True},
        {"size": "3"},
    ],
)
def test_a_training_report_that_does_not_fit_fails(changed: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match=f"{next(iter(changed))} of the report must be"):
        training_report(written(TRAINED | changed), **RUN)


@pytest.mark.parametrize(
    "changed",
    [{"execution": "another"}, {"status": "OK"}, {"sha256": "b" * 64}, {"model": ""}, {"version": "a/b"}],
)
def test_a_build_report_that_does_not_fit_fails(changed: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match=f"{next(iter(changed))} of the report must be"):
        build_report(written(PASSED | changed), **RUN, sha256=SHA256)


@given(st.binary(max_size=100))
def test_other_bytes_fail(data: bytes) -> None:
    with pytest.raises(ReportError):
        training_report(data, **RUN)
