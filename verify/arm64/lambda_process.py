"""Runs in a function's own process, by any Python: imports the handler as Lambda does, and hands it events.

Started as a file, with nothing of ours on the path: ``python -I -S lambda_process.py REQUEST ANSWER``, both JSON files.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import platform
import sys
import time


class Context:
    """The part of Lambda's context that our handlers read."""

    aws_request_id = "00000000-0000-0000-0000-000000000000"
    function_version = "1"

    def __init__(self) -> None:
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.invoked_function_arn = f"arn:aws:lambda:us-east-1:000000000000:function:{self.function_name}:1"

    def get_remaining_time_in_millis(self) -> int:
        """Return plenty: an emulated CPU is slow."""
        return 900_000


def record_compiled(folders: list[str]) -> list[str]:
    """Return a list that gets the path of each module of these folders that Python compiles; nothing is written there.

    A module whose bytecode came with the package is not compiled.
    """
    loader = importlib.machinery.SourceFileLoader
    compile_source, write = loader.source_to_code, loader.set_data
    compiled: list[str] = []

    def inside(path: object) -> bool:
        return any(str(path).startswith(folder + os.sep) for folder in folders)

    def source_to_code(self, data, path, *others, **options):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN002, ANN003, ANN202
        if inside(path):
            compiled.append(str(path))
        return compile_source(self, data, path, *others, **options)

    def set_data(self, path, data, **options):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN202
        if not inside(path):
            write(self, path, data, **options)

    loader.source_to_code = source_to_code  # type: ignore[method-assign]
    loader.set_data = set_data  # type: ignore[method-assign]
    return compiled


def main(request_path: str, answer_path: str) -> None:
    """Import the handler, call it with each event in turn, and write what it answered."""
    with open(request_path, encoding="utf-8") as file:  # noqa: PTH123 # pathlib is not imported by Lambda either
        request = json.load(file)
    sys.path[:0] = request["folders"]
    sys.path.append(request["sdk"])
    compiled = record_compiled(request["folders"])
    began = time.perf_counter()
    module, _, name = request["handler"].rpartition(".")
    handler = getattr(importlib.import_module(module), name)
    # By JSON and back, as Lambda does.
    answers = [json.loads(json.dumps(handler(event, Context()))) for event in request["events"]]
    answer = {
        "answers": answers,
        "compiled": compiled,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "seconds": time.perf_counter() - began,
    }
    with open(answer_path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(answer, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
