"""A job of a retraining: does what the file of orders says for it, with the rights that the job has."""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

job = sys.argv[1]
folder = Path(os.environ["ORDERS"])
order = json.loads((folder / "orders.json").read_text()).get(job, "good")
run, execution, bucket = (os.environ[f"RETRAINING_{name}"] for name in ("RUN", "EXECUTION", "BUCKET"))
s3 = boto3.client("s3")


def refusals() -> list[str]:
    """Return which folders of the bucket this job cannot write to."""
    refused = []
    for name in ("labels", "label-sets", "weights", "builds", "models"):
        try:
            s3.put_object(Bucket=bucket, Key=f"{name}/forged", Body=b"")
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessDenied":
                raise
            refused.append(name)
    return refused


told = {"run": run, "order": order, "version": os.environ.get("MODEL_VERSION")}
with (folder / f"{job}.log").open("a") as log:
    log.write(f"{json.dumps(told | ({'refused': refusals()} if order == 'forge' else {}))}\n")


def report(where: str, **said: object) -> None:
    body = json.dumps({"run": run, "execution": execution} | said)
    s3.put_object(Bucket=bucket, Key=f"{where}/{run}/report.json", Body=body.encode())


if order == "wait":
    while not (folder / "go").exists():
        time.sleep(0.1)
if order == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if order == "silent":
    sys.exit()
if order == "fail":
    sys.exit(3)

if job == "train":
    labels = s3.get_object(Bucket=bucket, Key=f"label-sets/{run}.jsonl")["Body"].read()
    weights = hashlib.sha256(labels).digest()
    s3.put_object(Bucket=bucket, Key=f"weights/{run}/w.bin", Body=weights)
    said = {"weights": "w.bin", "sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)}
    match order:
        case "truncated":
            report("weights", **said | {"size": len(weights) + 1})
        case "stale":
            report("weights", **said, execution="another")
        case _:
            report("weights", **said)
if job == "build":
    said = json.loads(s3.get_object(Bucket=bucket, Key=f"weights/{run}/report.json")["Body"].read())
    match order:
        case "refuse":
            report("builds", status="REFUSED", reason="it is worse", sha256=said["sha256"])
        case "mismatch":
            report("builds", status="PASSED", model="m", version="v", sha256="0" * 64)
        case _:
            report("builds", status="PASSED", model="m", version=f"v-{run}", sha256=said["sha256"])
