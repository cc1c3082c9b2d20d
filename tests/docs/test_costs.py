"""The page on costs shows what is computed."""

from __future__ import annotations

import importlib.util
import re

import pytest

from cdk_inference.costs import CascadeOption, CpuOption, PipelineShape, Traffic, estimate
from cdk_inference.costs.prices import Prices

from .pages import ROOT, page

PAGE = page("costs.md")


def test_outputs_and_prices_are_those_of_the_package() -> None:
    spec = importlib.util.spec_from_file_location("outputs", ROOT / "docs" / "scripts" / "outputs.py")
    outputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(outputs)
    assert outputs.written(PAGE.text) == PAGE.text, "run: python docs/scripts/outputs.py"
    # it is not empty, and finds stale ones
    assert len(PAGE.blocks("python")) == len(PAGE.blocks("text")) == 7
    assert all(shown for _, shown in PAGE.blocks("text"))
    (rows,) = PAGE.tables("prices").values()
    assert len(rows) == len(Prices().by_name())
    stale = PAGE.text.replace("| `s3_puts` | 5 |", "| `s3_puts` | 6 |").replace("cascade: 3,000,000", "")
    assert stale != PAGE.text
    assert outputs.written(stale) == PAGE.text


def test_the_table_of_a_million_objects_is_that_of_an_estimate() -> None:
    table = dict(re.findall(r"^\| ([^|]+?) \| [^|]* \| [^|]* \| ([\d.]+)(?: to [\d.]+)? \|$", PAGE.prose, re.MULTILINE))
    bill = estimate(CpuOption("any", milliseconds=1), Traffic(items_per_month=1_000_000), shape=PipelineShape(row_kb=1))
    counted = {
        "EventBridge events of S3": bill.usd("EventBridge events"),
        "SQS requests": bill.usd("SQS requests"),
        "Pipe": bill.usd("pipe requests"),
        "Step Functions, express": bill.usd("express executions"),
        "Lambda requests": bill.usd("Lambda requests"),
        "Reading objects (S3 GET)": bill.usd("S3 GETs of objects"),
        "Tensors in the work bucket": bill.usd("S3 PUTs of tensors") + bill.usd("S3 GETs of tensors"),
        "DynamoDB writes, on demand": bill.usd("DynamoDB writes"),
    }
    assert {name: float(usd) for name, usd in table.items() if name in counted} == {
        name: pytest.approx(usd, abs=0.0051) for name, usd in counted.items()
    }
    least, most = re.search(r"\*\*Sum without the uploads\*\* .*\*\*([\d.]+) to ([\d.]+)\*\*", PAGE.prose).groups()
    assert float(least) == pytest.approx(sum(counted.values()), abs=0.006)
    assert float(most) == pytest.approx(sum(counted.values()) + Prices().dynamodb_writes, abs=0.006)


def test_break_evens_are_those_of_the_prices() -> None:
    prices = Prices()
    share = prices.provisioned_arm64 / (prices.lambda_arm64 - prices.provisioned_duration_arm64)
    assert f"busy {share:.0%} of the time" in PAGE.prose.replace(" %", "%")
    three = 730 * (3 * prices.managed_hour("c8g.xlarge") + 4 * prices.endpoint_hours)
    vcpu = 1769 / 1024 * prices.lambda_gb_second("arm64") * 3600 * 730
    assert f"{three:.0f} USD a month" in PAGE.prose
    assert f"from {three / vcpu:.1f} vCPUs on" in " ".join(PAGE.prose.split())


def test_the_second_leg_that_a_cascade_needs_is_as_said() -> None:
    said = re.search(
        r"more than (\d+) ms; with one item in ten escalated, (\d+) ms would do", " ".join(PAGE.prose.split())
    ).groups()
    for milliseconds, escalation in zip(map(int, said), (0.636, 0.1), strict=True):
        pays = {}
        for each in (milliseconds - 1, milliseconds + 1):
            first, then = CpuOption("lite0", milliseconds=2.796), CpuOption("then", milliseconds=each)
            cascade = CascadeOption("cascade", first=first, then=then, escalation=escalation)
            traffic = Traffic(items_per_month=1_000_000)
            pays[each] = estimate(cascade, traffic).usd_per_month < estimate(then, traffic).usd_per_month
        assert list(pays.values()) == [False, True]


def test_the_costs_of_a_drift_monitor_are_those_of_the_prices() -> None:
    prices, drift = Prices(), page("drift.md").prose
    assert f"| The metric `Drift` | {prices.cloudwatch_metrics:.2f} a month |" in drift
    assert f"| Counting | {prices.dynamodb_writes / 32:.2f} for each million objects |" in drift
    assert f"at {100 * prices.cloudwatch_metrics:.2f} a month" in drift
    assert f"| Drift monitor | {prices.cloudwatch_metrics:.2f} |" in PAGE.prose


def test_events_and_the_audit_log_cost_what_the_prices_say() -> None:
    prices = Prices()
    least, most = (prices.eventbridge_events + prices.pipe_requests / batch for batch in (10, 1))
    assert f"add {least:.2f} to {most:.2f} USD" in PAGE.prose
    audit = page("audit.md").prose
    assert f"| events and pipe | {least:.2f} to {most:.2f} |" in audit
    few, many = (prices.sqs_requests * (1 + 2 / batch) for batch in (10, 1))
    assert f"{few:.2f} to {many:.2f} |" in audit
    large, small = (prices.s3_puts / records for records in (1000, 23))
    assert f"{large:.2f} to {small:.2f} |" in audit
