"""A handler inside a function of the embedded AWS: what it prints must not disturb what it returns."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import numpy as np

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from conftest import Inbox

SOURCES = Path(__file__).parents[3] / "lambda_src"
USER_CODE = """
import json
import sys

def function(outputs, item):
    print("a line on standard output")
    print(json.dumps({"progress": 0.5}))
    sys.stdout.write("no end of line")
    return {"y": float(outputs["y"])}
"""


def test_metrics_logs_and_prints_do_not_disturb_the_response(
    inbox: Inbox, dynamodb: DynamoDBClient, table: str
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for path in sorted((SOURCES / "inference_runtime").rglob("*.py")):
            bundle.write(path, path.relative_to(SOURCES))
        bundle.writestr("user_code.py", USER_CODE)
    functions = boto3.client("lambda")
    functions.create_function(
        FunctionName="postprocess",
        Runtime="python3.11",
        Handler="inference_runtime.handlers.postprocess.handler",
        Role="arn:aws:iam::000000000000:role/any",
        Code={"ZipFile": archive.getvalue()},
        Timeout=60,
        Environment={
            "Variables": {
                "PIPELINE": "photos",
                "RESULTS_TABLE": table,
                "WORK_BUCKET": inbox.bucket,
                "STAGE_FUNCTION": "user_code:function",
                # The emulator's functions see what they bundle; these are the requirements.
                "PYTHONPATH": str(Path(np.__file__).parents[1]),
            }
        },
    )
    functions.get_waiter("function_active_v2").wait(FunctionName="postprocess")
    event = {
        "items": [
            {
                "id": "i",
                "bucket": "photos",
                "key": "a",
                "version_id": None,
                "etag": "e",
                "size": 1,
                "sequencer": "1".ljust(32, "0"),
                "event_time": "2026-01-02T03:04:05Z",
                "message_id": "m",
            }
        ],
        "rejected": [],
        "groups": [{"indices": [0], "outputs": {"y": {"dtype": "float32", "shape": [1], "data": "AADAPw=="}}}],
        "inference": "cpu",
        "model_version": "m1",
    }
    for new in (1, 0):  # the second time in the same process
        response = functions.invoke(FunctionName="postprocess", Payload=json.dumps(event))
        body = json.loads(response["Payload"].read())
        assert "FunctionError" not in response, body
        assert body == {"retry": [], "failures": [], "succeeded": new, "rejected": 0, "failed": 0, "unsure": []}
    [row] = dynamodb.scan(TableName=table)["Items"]
    assert row["prediction"] == {"M": {"y": {"N": "1.5"}}}
