"""Stages of the user's own and built-in ones, from the object to the row."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e


def test_stages_of_the_user(obedient: Watched) -> None:
    orders = {
        "good": (b"return [1, 2, 30, 40]", "SUCCEEDED", None),
        "refused before": (b"refuse", "REJECTED", "as it was told to refuse"),
        "unknown": (b"dance", "REJECTED", "no such order: b'dance'"),
        "no number": (b"return [1, 2, 3, NaN]", "REJECTED", "input 'numbers' has 1 values that are NaN or infinite"),
        "too short": (b"return [1, 2]", "REJECTED", "input 'numbers' is float32 [2], expected float32 [4]"),
        "refused after": (b"return [1, 2, -3, -4]", "REJECTED", "the second sum is negative"),
        "infinite": (b"return [1, 2, 3e3, 4e3]", "FAILED", "prediction.infinite is inf, expected a finite number"),
        "overflow": (b"return [3e38, 3e38, 0, 0]", "FAILED", "output 'sums' has 1 values that are NaN or infinite"),
    }
    for key, (data, _, _) in orders.items():
        obedient.put(key, data)
    assert obedient.ends(orders) == {key: status for key, (_, status, _) in orders.items()}
    for key, (_, _, reason) in orders.items():
        row = obedient.row(key)
        assert reason is None or reason in row["reason"]
    row = obedient.row("good")
    told = {"sums": [3, 70], "first": 3, "ordinal": "3rd", "object": "good", "infinite": None}
    assert row["prediction"] == {**told, "order": "return"}
    assert row["kept"] == {"order": "return", "about": {"bytes": len(orders["good"][0])}}
    assert "kept" not in obedient.row("refused before")
    assert row["inference"] == "cpu"
    assert row["version"] == f"null#{row['model_version']}"
    assert "reason" not in row


def test_two_pipelines_over_a_bucket_and_a_table_of_the_user(tables: Watched, tensors: Watched) -> None:
    array = io.BytesIO()
    np.save(array, np.array([0.5, 0.25, 3, 4], np.float32))
    tensors.put("rows/array.npy", array.getvalue())
    tensors.put("text.npy", b"not an array")
    tables.put("rows/record.json", json.dumps({"a": 1, "b": 2.5, "c": 3, "d": 4, "e": "ignored"}).encode())
    tables.put("rows/RECORD.JSON", json.dumps({"a": 1, "b": 2, "c": 3}).encode())
    tables.put("elsewhere/record.json", b"not under the prefix, so nobody reads it")
    assert tensors.ends(["rows/array.npy", "text.npy"]) == {"rows/array.npy": "SUCCEEDED", "text.npy": "REJECTED"}
    assert tables.ends(["rows/record.json", "rows/RECORD.JSON"]) == {
        "rows/record.json": "SUCCEEDED",
        "rows/RECORD.JSON": "REJECTED",
    }
    assert tensors.row("rows/array.npy")["prediction"] == {"sums": [Decimal("0.75"), 7]}
    assert tables.row("rows/record.json")["prediction"] == {"sums": [Decimal("3.5"), 7]}
    assert tables.row("rows/RECORD.JSON")["reason"] == "field 'd' is missing"
    assert tables.rows("elsewhere/record.json") == []


def test_records_with_strings_categories_and_missing_values(records: Watched) -> None:
    """A tree that takes NaN, an encoder that takes strings, and the place of a category."""
    rows = {
        "young.csv": ("29,Oslo,M", 10 + 1 + 1),
        "missing.csv": (",Köln,L", 10 + 2 + 2),
        "old.csv": ("31,Köln,S", 20 + 2 + 0),
        "unknown.csv": ("31,Rom,XL", 20 - 1 - 100),
        "refused.csv": ("old,Rom,S", None),
    }
    for key, (row, _) in rows.items():
        records.put(key, f"age,town,size\n{row}\n".encode())
    statuses = {key: "REJECTED" if score is None else "SUCCEEDED" for key, (_, score) in rows.items()}
    assert records.ends(rows) == statuses
    scores = {key: records.row(key)["prediction"]["score"] for key, status in statuses.items() if status == "SUCCEEDED"}
    assert scores == {key: [score] for key, (_, score) in rows.items() if score is not None}
    assert records.row("refused.csv")["reason"] == "field 'age' is 'old', expected a number"


def test_models_that_are_not_in_the_zip(cloud: LocalCloud, tables: Watched, tensors: Watched) -> None:
    """The tests above show that the answers are right."""

    def delivery(pipeline: Watched) -> tuple[str | None, int]:
        function = cloud.client("lambda").get_function_configuration(FunctionName=pipeline.functions["Inference"])
        return function["Environment"]["Variables"]["MODEL_DELIVERY"], len(function.get("Layers", []))

    assert delivery(tables) == ("s3", 0)
    assert delivery(tensors) == ("layer", 1)


def test_only_who_is_granted_reads_results(cloud: LocalCloud, tables: Watched, outputs: dict[str, str]) -> None:
    tables.put("rows/asked.json", json.dumps({"a": 1, "b": 2, "c": 3, "d": 4}).encode())
    tables.ends(["rows/asked.json"])
    row = tables.row("rows/asked.json")

    def ask(function: str) -> str:
        payload = json.dumps({"object": row["object"], "version": row["version"]})
        answer = cloud.client("lambda").invoke(FunctionName=outputs[f"{function}Function"], Payload=payload)
        return answer["Payload"].read().decode()

    assert json.loads(ask("Reader")) == "SUCCEEDED"
    assert "AccessDenied" in ask("Stranger")
