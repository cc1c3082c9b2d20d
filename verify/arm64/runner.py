"""Runs functions of a synthesized app, each in a separate process, against an embedded S3 and DynamoDB."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.cache import cache_root
from cdk_inference.local import aws

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from verify.arm64.functions import Assembly, Function

_PROCESS = Path(__file__).with_name("lambda_process.py")
# Packages of Lambda's Python besides the standard library.
_SDK = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")
_SECONDS = 600
_LINES = 4


class FunctionError(Exception):
    """A function did not answer; the message is the end of what it printed."""


@dataclass(frozen=True)
class Answer:
    """The result of a function.

    Parameters
    ----------
    answers
        Its answer to each event.
    compiled
        Its modules that Python compiled, since the package has no bytecode for them.
    machine, python
        The machine and Python that it reports.
    seconds
        The time of the whole process.
    """

    answers: list[Any]
    compiled: list[str]
    machine: str
    python: str
    seconds: float


def host_python() -> list[str]:
    """Return the command of this Python, without what is installed for it."""
    return [str(getattr(sys, "_base_executable", sys.executable))]


def sdk() -> Path:
    """Return a folder with boto3 and what it needs, as Lambda's Python offers them, with room for bytecode."""
    version = importlib.metadata.version("botocore")
    folder = cache_root() / "emulators" / f"sdk-{version}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            partial = Path(name) / "sdk"
            partial.mkdir()
            for package in _SDK:
                spec = importlib.util.find_spec(package)
                if spec is None or spec.origin is None:
                    raise FunctionError(f"{package} is not installed: pip install 'cdk-inference[local]'")
                origin = Path(spec.origin)
                if origin.name == "__init__.py":
                    shutil.copytree(origin.parent, partial / package, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(origin, partial)
            if not folder.is_dir():  # unless another process was first
                partial.rename(folder)
    return folder


class Services:
    """Buckets, tables and published files of an assembly in an embedded AWS.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    name
        The beginning of the names of its buckets and tables.
    """

    def __init__(self, endpoint: str, name: str) -> None:
        self._endpoint = endpoint
        self._name = name
        self._s3 = aws.client(endpoint, "s3")
        self._dynamodb = aws.client(endpoint, "dynamodb")
        self._named: dict[str, str] = {}

    def publish(self, assembly: Assembly) -> None:
        """Make what the functions refer to, and upload the models that they download."""
        for logical_id, resource in assembly.resources.items():
            name = f"{self._name}-{logical_id}".lower()[:63]
            if resource["Type"] == "AWS::S3::Bucket":
                self._s3.create_bucket(Bucket=name)
            elif resource["Type"] == "AWS::DynamoDB::GlobalTable":
                properties = resource["Properties"]
                self._dynamodb.create_table(
                    TableName=name,
                    BillingMode="PAY_PER_REQUEST",
                    AttributeDefinitions=properties["AttributeDefinitions"],
                    KeySchema=properties["KeySchema"],
                )
            else:
                continue
            self._named[logical_id] = name
        wanted = {
            (function.variables["MODEL_BUCKET"], file["key"])
            for function in assembly.functions().values()
            if "MODEL_FILES" in function.variables
            for file in json.loads(function.variables["MODEL_FILES"])
        }
        files = assembly.files()
        for bucket, key in sorted(wanted):
            self._s3.create_bucket(Bucket=bucket)  # the same for all; there is no harm in it
            self._s3.upload_file(str(files[bucket, key]), bucket, key)

    def variables(self, function: Function) -> dict[str, str]:
        """Return the environment of a function with the names of what it refers to."""
        return {
            name: value if isinstance(value, str) else self._named[value["Ref"]]
            for name, value in function.variables.items()
        }

    def environment(self, function: Function, folder: Path) -> dict[str, str]:
        """Return the environment that Lambda would give a function.

        Parameters
        ----------
        folder
            Where it writes, instead of ``/tmp``.
        """
        return aws.environment(
            self._endpoint,
            {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "LANG": "en_US.UTF-8",
                "TZ": ":UTC",
                "TMPDIR": str(folder),
                "LAMBDA_TASK_ROOT": "",  # replaced below: where the code is unpacked
            },
        ) | {
            "AWS_LAMBDA_FUNCTION_NAME": f"{function.pipeline}-{function.stage}",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
            "_HANDLER": function.handler,
            **self.variables(function),
        }

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> list[dict[str, Any]]:
        """Put objects into a bucket, and return the messages that the pipe would bring of them."""
        messages = []
        for number, (key, body) in enumerate(objects.items(), 1):
            etag = self._s3.put_object(Bucket=bucket, Key=key, Body=body)["ETag"].strip('"')
            entry = {"key": key, "size": len(body), "etag": etag, "sequencer": f"{number:018X}"}
            detail = {"version": "0", "bucket": {"name": bucket}, "object": entry, "reason": "PutObject"}
            messages.append({"message_id": f"message-{number}", "time": "2026-01-02T03:04:05Z", "detail": detail})
        return messages

    def create_bucket(self, name: str) -> str:
        """Make a bucket, and return its name."""
        self._s3.create_bucket(Bucket=name)
        return name

    def read(self, bucket: str, key: str) -> bytes:
        """Return the bytes of an object."""
        return bytes(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def rows(self, function: Function) -> list[dict[str, Any]]:
        """Return the rows in the table of a function, in DynamoDB's types, by key."""
        table = self.variables(function)["RESULTS_TABLE"]
        found = self._dynamodb.scan(TableName=table, ConsistentRead=True)["Items"]
        return sorted(found, key=lambda row: (row["object"]["S"], row["version"]["S"]))

    def run(self, function: Function, events: Sequence[Any], interpreter: Sequence[str]) -> Answer:
        """Run a function in a separate process.

        Parameters
        ----------
        function
            The function.
        events
            The events of its invocations, in turn.
        interpreter
            The command of a Python, such as that of `emulators.python`.

        Raises
        ------
        FunctionError
            If it raises, crashes or does not end.
        """
        with tempfile.TemporaryDirectory(prefix="cdk-inference-verify-") as name:
            folder = Path(name)
            (folder / "tmp").mkdir()
            folders = [str(path) for path in function.unpack(folder)]
            request = {"handler": function.handler, "events": list(events), "folders": folders, "sdk": str(sdk())}
            (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
            named = f"{function.pipeline} {function.stage.lower()}"
            files = [str(folder / "request.json"), str(folder / "answer.json")]
            began = time.perf_counter()
            try:
                done = subprocess.run(
                    [*interpreter, "-I", "-S", str(_PROCESS), *files],
                    env={**self.environment(function, folder / "tmp"), "LAMBDA_TASK_ROOT": folders[0]},
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                    timeout=_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise FunctionError(f"{named} gave no answer within {_SECONDS} s") from None
            seconds = time.perf_counter() - began
            if done.returncode:
                last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-_LINES:]
                raise FunctionError(f"{named} ended with exit code {done.returncode}: {' / '.join(last)}")
            answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        return Answer(answer["answers"], answer["compiled"], answer["machine"], answer["python"], seconds)
