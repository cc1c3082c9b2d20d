"""Distributed maps as AWS runs them: MiniStack's have no batches, no JSONata, no results in S3, and cannot be stopped.

Runs in the process of the embedded AWS, see `_ministack`.
"""

from __future__ import annotations

import contextvars
import csv
import gzip
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

_COUNTS = (
    "pending",
    "running",
    "succeeded",
    "failed",
    "timedOut",
    "aborted",
    "total",
    "resultsWritten",
    "failuresNotRedrivable",
    "pendingRedrive",
)
_OK = 200
_AT_ONCE = 64  # what MiniStack runs without a limit


def install() -> None:
    """Run distributed maps by this module."""
    from ministack.services import stepfunctions  # noqa: PLC0415

    stepfunctions._run_distributed_map = lambda *given: _MapRun(stepfunctions, *given).run()


class _MapRun:
    """One run of a distributed map, whose children are executions."""

    def __init__(self, stepfunctions: Any, state: dict[str, Any], *given: Any) -> None:  # noqa: ANN401
        self._sfn = stepfunctions
        self._state = state
        self._given, self._effective, self._iterator, self._parent, self._ctx = given
        self._jsonata = stepfunctions._state_query_language(state, self._ctx) == "JSONata"
        self._lock = threading.Lock()

    def run(self) -> tuple[Any, Any]:
        """Run all children, and return the state's output and the next state."""
        sfn, state = self._sfn, self._state
        items = self._items()
        batches = self._batches(items)
        region, account, name = (self._parent["stateMachineArn"].split(":")[part] for part in (3, 4, 6))
        label = state.get("Label") or sfn.new_uuid()
        self._prefix = f"{name}/{label}"
        self._arn = f"arn:aws:states:{region}:{account}"
        limit = self._number("MaxConcurrency", 0)
        zero = dict.fromkeys(_COUNTS, 0)
        self._record = {
            "mapRunArn": f"{self._arn}:mapRun:{self._prefix}:{sfn.new_uuid()}",
            "executionArn": self._parent["executionArn"],
            "status": "RUNNING",
            "startDate": sfn.now_iso(),
            "maxConcurrency": int(limit),
            "toleratedFailurePercentage": self._number("ToleratedFailurePercentage", 0),
            "toleratedFailureCount": int(self._number("ToleratedFailureCount", 0)),
            "itemCounts": dict(zero, total=len(items), pending=len(items)),
            "executionCounts": dict(zero, total=len(batches), pending=len(batches)),
            "redriveCount": 0,
            "_stateMachineArn": f"{self._arn}:stateMachine:{self._prefix}",
        }
        sfn._map_runs[self._record["mapRunArn"]] = self._record
        workers = int(limit) or min(len(batches), _AT_ONCE) or 1
        with ThreadPoolExecutor(workers) as pool:
            children = [
                pool.submit(contextvars.copy_context().run, self._child, index, batch)
                for index, batch in enumerate(batches)
            ]
            wait(children)
        return self._end([child.result() for child in children])

    def _number(self, field: str, default: float) -> float:
        if field not in self._state:
            return default
        if self._jsonata:
            return float(self._sfn._apply_jsonata_template(self._state[field], self._given, self._ctx))
        return float(self._state[field])

    def _filled(self, template: Any, ctx: Any = None) -> Any:  # noqa: ANN401
        """Fill in a template of the state."""
        ctx = ctx or self._ctx
        if self._jsonata:
            return self._sfn._apply_jsonata_template(template, self._given, ctx)
        return self._sfn._resolve_params_obj(template, self._effective, ctx)

    def _items(self) -> list[Any]:
        reader = self._state.get("ItemReader")
        if reader is None:
            items = (
                self._sfn._jsonata_state_field(self._state, "Items", "array", self._given, self._ctx)
                if self._jsonata and "Items" in self._state
                else self._sfn._resolve_path_or_ctx(self._state.get("ItemsPath", "$"), self._effective, self._ctx)
            )
            return items if isinstance(items, list) else [items]
        places = self._filled(reader.get("Arguments") or reader.get("Parameters") or {})
        if (reader.get("ReaderConfig") or {}).get("InputType") == "MANIFEST":
            return self._inventory(places)
        return list(self._sfn._read_map_items({**reader, "Arguments": places, "Parameters": None}, {}, self._ctx))

    def _inventory(self, places: dict[str, str]) -> list[dict[str, str]]:
        """Return the objects of an S3 Inventory, by the manifest that names its lists."""
        manifest = json.loads(self._sfn._s3_object_text(places["Bucket"], places["Key"]))
        names = [name.strip() for name in manifest["fileSchema"].split(",")]
        bucket = manifest["destinationBucket"].rpartition(":")[2]
        rows = []
        for file in manifest["files"]:
            text = gzip.decompress(_object(bucket, file["key"])).decode()
            rows += [dict(zip(names, row, strict=False)) for row in csv.reader(io.StringIO(text))]
        return rows

    def _batches(self, items: list[Any]) -> list[tuple[int, Any]]:
        """Return the inputs of the children, each with the number of its items."""
        selector = self._state.get("ItemSelector") or self._state.get("Parameters")
        if selector:
            items = [
                self._filled(selector, {**self._ctx, "Map": {"Item": {"Index": index, "Value": item}}})
                for index, item in enumerate(items)
            ]
        batcher = self._state.get("ItemBatcher")
        if batcher is None:
            return [(1, item) for item in items]
        size = int(batcher.get("MaxItemsPerBatch") or len(items) or 1)
        more = {"BatchInput": self._filled(batcher["BatchInput"])} if "BatchInput" in batcher else {}
        parts = [items[first : first + size] for first in range(0, len(items), size)]
        return [(len(part), {"Items": part, **more}) for part in parts]

    def _child(self, index: int, batch: tuple[int, Any]) -> tuple[int, str, dict[str, Any]]:
        """Run a child, unless the map was stopped; return its items, what became of it, and its record."""
        sfn, (size, given) = self._sfn, batch
        if self._parent["status"] != "RUNNING":
            self._move(size, "pending", "aborted")
            return size, "aborted", {}
        name = sfn.new_uuid()
        child = {
            "executionArn": f"{self._arn}:execution:{self._prefix}:{name}",
            "stateMachineArn": self._record["_stateMachineArn"],
            "name": name,
            "status": "RUNNING",
            "startDate": sfn.now_iso(),
            "stopDate": None,
            "input": json.dumps(given),
            "inputDetails": {"included": True},
            "output": None,
            "outputDetails": {"included": True},
            "mapRunArn": self._record["mapRunArn"],
            "events": [],
            "testCase": self._parent.get("testCase"),
            "mockAttempts": {},
        }
        sfn._executions[child["executionArn"]] = child
        self._move(size, "pending", "running")
        ctx = {
            **self._ctx,
            "Execution": {
                "Id": child["executionArn"],
                "Input": given,
                "Name": name,
                "StartTime": child["startDate"],
            },
            "Map": {"Item": {"Index": index, "Value": given}},
            "variables": {},
        }
        try:
            output = sfn._run_sub_machine(self._iterator["States"], self._iterator["StartAt"], given, child, ctx)
            child.update(status="SUCCEEDED", output=json.dumps(output))
        except Exception as problem:
            error, cause = getattr(problem, "error", "States.TaskFailed"), getattr(problem, "cause", str(problem))
            child.update(status="FAILED", error=error, cause=cause)
        child["stopDate"] = sfn.now_iso()
        outcome = child["status"].lower()
        self._move(size, "running", outcome)
        return size, outcome, child

    def _move(self, size: int, before: str, after: str) -> None:
        with self._lock:
            for counts, number in ((self._record["itemCounts"], size), (self._record["executionCounts"], 1)):
                counts[before] -= number
                counts[after] += number

    def _end(self, children: list[tuple[int, str, dict[str, Any]]]) -> tuple[Any, Any]:
        sfn, state, record = self._sfn, self._state, self._record
        failed = sum(size for size, outcome, _ in children if outcome == "failed")
        total = record["itemCounts"]["total"]
        limits = [
            failed > record["toleratedFailureCount"] if "ToleratedFailureCount" in state else None,
            failed * 100 > record["toleratedFailurePercentage"] * total
            if "ToleratedFailurePercentage" in state
            else None,
        ]
        known = [limit for limit in limits if limit is not None]
        exceeded = bool(failed) and (any(known) if known else True)
        aborted = self._parent["status"] != "RUNNING"
        record["status"] = "ABORTED" if aborted else "FAILED" if exceeded else "SUCCEEDED"
        record["stopDate"] = sfn.now_iso()
        result: Any = [json.loads(child["output"]) if outcome == "succeeded" else {} for _, outcome, child in children]
        if (writer := state.get("ResultWriter")) is not None:
            place = self._filled(writer.get("Arguments") or writer.get("Parameters"))
            result = self._write(place, writer.get("WriterConfig") or {}, children)
            for counts in (record["itemCounts"], record["executionCounts"]):
                counts["resultsWritten"] = counts["succeeded"] + counts["failed"]
        if exceeded and not aborted:
            raise sfn._ExecutionError(
                "States.ExceedToleratedFailureThreshold", "The specified tolerated failure threshold was exceeded"
            )
        if self._jsonata:
            output = sfn._apply_jsonata_output(state, self._given, self._ctx, result=result, default=result)
            sfn._apply_state_assign(state, self._given, self._ctx, result=result)
        else:
            output = sfn._apply_result_path(state, self._given, sfn._apply_result_selector(state, result))
            output = sfn._apply_output_path(state, output, self._ctx)
        return output, sfn._next_or_end(state)

    def _write(
        self, place: dict[str, str], config: dict[str, str], children: list[tuple[int, str, dict[str, Any]]]
    ) -> dict[str, Any]:
        """Write what the children returned, and return where."""
        folder = f"{place['Prefix'].strip('/')}/{self._record['mapRunArn'].rpartition(':')[2]}"
        files: dict[str, list[dict[str, object]]] = {"FAILED": [], "PENDING": [], "SUCCEEDED": []}
        for status in ("FAILED", "SUCCEEDED"):
            ended = [child for _, outcome, child in children if outcome == status.lower()]
            if not ended:
                continue
            compact = status == "SUCCEEDED" and config.get("Transformation") == "COMPACT"
            records = [json.loads(child["output"]) if compact else _described(child) for child in ended]
            if config.get("OutputType") == "JSONL":
                ending, body = "jsonl", "".join(json.dumps(record) + "\n" for record in records).encode()
            else:
                ending, body = "json", json.dumps(records).encode()
            key = f"{folder}/{status}_0.{ending}"
            files[status].append({"Key": key, "Size": len(body)})
            self._put(place["Bucket"], key, body)
        manifest = {
            "DestinationBucket": place["Bucket"],
            "MapRunArn": self._record["mapRunArn"],
            "ResultFiles": files,
        }
        self._put(place["Bucket"], f"{folder}/manifest.json", json.dumps(manifest).encode())
        return {
            "MapRunArn": self._record["mapRunArn"],
            "ResultWriterDetails": {"Bucket": place["Bucket"], "Key": f"{folder}/manifest.json"},
        }

    def _put(self, bucket: str, key: str, body: bytes) -> None:
        from ministack.services import s3  # noqa: PLC0415

        status, _, answer = s3._put_object(bucket, key, body, {})
        if status != _OK:
            raise self._sfn._ExecutionError("States.ResultWriterFailed", bytes(answer).decode())


def _object(bucket: str, key: str) -> bytes:
    from ministack.services import s3  # noqa: PLC0415

    status, _, body = s3._get_object(bucket, key, {}, {})
    if status != _OK:
        raise ValueError(f"there is no s3://{bucket}/{key}")
    return bytes(body)


def _described(child: dict[str, Any]) -> dict[str, Any]:
    """Return an execution as a file of results has it."""
    return {
        "ExecutionArn": child["executionArn"],
        "Input": child["input"],
        "Name": child["name"],
        "Output": child["output"],
        "StartDate": child["startDate"],
        "StateMachineArn": child["stateMachineArn"],
        "Status": child["status"],
        "StopDate": child["stopDate"],
        **({"Error": child["error"], "Cause": child["cause"]} if child["status"] == "FAILED" else {}),
    }
