"""Measure cold starts of a deployed function, in your own account.

    python benchmarks/lambda_cold_start.py FUNCTION EVENT.json --rounds 20 --output cold.json

Each round makes Lambda start a new environment: it changes a variable that nobody reads (or, with ``--snap-start``, it
publishes a version). It invokes the function once cold and once warm. Then it reads what Lambda itself reports at the
end of the log: Init Duration, Restore Duration, Duration, Max Memory Used. It puts back what it changes.

It needs boto3 with credentials that may do ``lambda:GetFunctionConfiguration``, ``lambda:UpdateFunctionConfiguration``
and ``lambda:InvokeFunction``; for SnapStart also ``lambda:PublishVersion`` and ``lambda:DeleteFunction``, for the
versions that it makes. A benchmark's function should have no other traffic. It costs a few invocations, and storage of
snapshots for minutes.

Not run on a live account so far: the format of REPORT lines is that of AWS's documentation.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

VARIABLE = "CDK_INFERENCE_COLD_START"
"""Name of the variable whose change retires the environments that there are."""

MOST_SPOILT = 5
"""Rounds that may be repeated, because Lambda did not start exactly one environment."""

_REPORTED = re.compile(
    r"(Billed Restore Duration|Init Duration|Restore Duration|Billed Duration|Duration|Max Memory Used)"
    r": ([\d.]+) (?:ms|MB)"
)


def main() -> None:
    """Measure, print medians, and write all values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("function", help="its name or ARN, without a version")
    parser.add_argument("event", type=Path, help="JSON file to invoke it with")
    parser.add_argument("--rounds", type=int, default=20, help="cold starts")
    parser.add_argument("--snap-start", action="store_true", help="publish a version each time, and invoke that")
    parser.add_argument("--region", help="default: that of the AWS configuration")
    parser.add_argument("--output", type=Path, help="JSON file for all values")
    arguments = parser.parse_args()
    client = boto3.client("lambda", region_name=arguments.region)
    rounds = measure(
        client, arguments.function, arguments.event.read_bytes(), arguments.rounds, snap_start=arguments.snap_start
    )
    found = {"function": arguments.function, "snap_start": arguments.snap_start, "rounds": rounds, **medians(rounds)}
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(medians(rounds), indent=2) + "\n")


def measure(
    client: LambdaClient, function: str, event: bytes, rounds: int, *, snap_start: bool = False
) -> list[dict[str, dict[str, float]]]:
    """Return what Lambda reported of a cold and of a warm invocation, for each round.

    Parameters
    ----------
    client
        A client of boto3 for Lambda.
    function
        Name or ARN.
    event
        The payload.
    rounds
        Cold starts to make.
    snap_start
        Whether to publish a version each time, whose snapshot the environment comes from.

    Raises
    ------
    SystemExit
        If the function fails or has no SnapStart, or too many rounds were not a cold start and then a warm one.
    """
    configuration = client.get_function_configuration(FunctionName=function)
    if snap_start and configuration.get("SnapStart", {}).get("ApplyOn") != "PublishedVersions":
        raise SystemExit(f"{function} has no SnapStart: leave --snap-start out, or turn it on")
    variables = dict(configuration.get("Environment", {}).get("Variables", {}))
    found: list[dict[str, dict[str, float]]] = []
    spoilt = 0
    try:
        while len(found) < rounds:
            _configure(client, function, {**variables, VARIABLE: str(len(found) + spoilt)})
            version = _publish(client, function) if snap_start else None
            try:
                cold, warm = (_invoke(client, function, event, version) for _ in range(2))
            finally:
                if version is not None:
                    client.delete_function(FunctionName=function, Qualifier=version)
            started = "Restore Duration" if snap_start else "Init Duration"
            if started in cold and started not in warm:
                found.append({"cold": cold, "warm": warm})
                continue
            spoilt += 1  # an environment was there already, or two were made: somebody else called
            if spoilt > MOST_SPOILT:
                raise SystemExit(
                    f"{spoilt} of {spoilt + len(found)} rounds were no cold start and then a warm one: is there other "
                    f"traffic? The last: {cold}, {warm}"
                )
    finally:
        _configure(client, function, variables)
    return found


def report(log: str) -> dict[str, float]:
    """Return the durations in milliseconds, and the memory in MB, of the REPORT line at the end of a log."""
    lines = [line for line in log.splitlines() if "REPORT RequestId" in line]
    if lines:
        return {name: float(value) for name, value in _REPORTED.findall(lines[-1])}
    # With JSON logs, it is a record.
    for line in reversed(log.splitlines()):
        if '"platform.report"' in line:
            metrics = json.loads(line)["record"]["metrics"]
            names = {
                "initDurationMs": "Init Duration",
                "restoreDurationMs": "Restore Duration",
                "billedDurationMs": "Billed Duration",
                "durationMs": "Duration",
                "maxMemoryUsedMB": "Max Memory Used",
            }
            return {names[name]: float(value) for name, value in metrics.items() if name in names}
    raise SystemExit(f"the log has no report of Lambda: {log!r}")


def medians(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return the median of each value, cold and warm, and what the cold invocation took in all."""
    found: dict[str, Any] = {
        kind: {name: statistics.median(one[kind][name] for one in rounds) for name in rounds[0][kind]}
        for kind in ("cold", "warm")
    }
    begun = [one["cold"].get("Init Duration", 0) + one["cold"].get("Restore Duration", 0) for one in rounds]
    whole = [start + one["cold"]["Duration"] for start, one in zip(begun, rounds, strict=True)]
    found["cold"]["Init or restore, and Duration"] = statistics.median(whole)
    return found


def _configure(client: LambdaClient, function: str, variables: dict[str, str]) -> None:
    client.update_function_configuration(FunctionName=function, Environment={"Variables": variables})
    client.get_waiter("function_updated_v2").wait(FunctionName=function)


def _publish(client: LambdaClient, function: str) -> str:
    version = client.publish_version(FunctionName=function)["Version"]
    client.get_waiter("published_version_active").wait(FunctionName=function, Qualifier=version)
    return version


def _invoke(client: LambdaClient, function: str, event: bytes, version: str | None) -> dict[str, float]:
    where = {"Qualifier": version} if version is not None else {}
    answer = client.invoke(FunctionName=function, Payload=event, LogType="Tail", **where)
    if "FunctionError" in answer:
        raise SystemExit(f"the function failed: {answer['Payload'].read().decode()}")
    return report(base64.b64decode(answer["LogResult"]).decode())


if __name__ == "__main__":
    main()
