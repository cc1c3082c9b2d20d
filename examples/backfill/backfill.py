"""Send the newest version of each object of a bucket to a pipeline's queue, in the form of S3's own events.

Nothing is written to the bucket. `python backfill.py --bucket INBOX --table RESULTS --queue URL [--prefix photos/]`
"""

import argparse
import json
from typing import Any

import boto3

parser = argparse.ArgumentParser(description=__doc__)
for option in ("--bucket", "--table", "--queue"):
    parser.add_argument(option, required=True)
parser.add_argument("--prefix", default="")
wanted = parser.parse_args()
s3, sqs, dynamodb = boto3.client("s3"), boto3.client("sqs"), boto3.client("dynamodb")

# A listing has no sequencers, by which rows of one object are ordered: take those of the rows of earlier models.
sequencers: dict[tuple[str, str], str] = {}
for rows in dynamodb.get_paginator("scan").paginate(
    TableName=wanted.table,
    ProjectionExpression="#object, #version, sequencer",
    FilterExpression="begins_with(#object, :start)",
    ExpressionAttributeNames={"#object": "object", "#version": "version"},
    ExpressionAttributeValues={":start": {"S": f"{wanted.bucket}/{wanted.prefix}"}},
):
    for row in rows["Items"]:
        of = row["object"]["S"], row["version"]["S"].rpartition("#")[0]
        sequencers[of] = max(sequencers.get(of, "0"), row["sequencer"]["S"])


def event(version: dict[str, Any]) -> dict[str, Any]:
    """Return the event that S3 would have sent of an object's version."""
    version_id = version["VersionId"]  # "null" in a bucket without versioning
    described = {"key": version["Key"], "size": version["Size"], "etag": version["ETag"].strip('"')}
    described["sequencer"] = sequencers.get((f"{wanted.bucket}/{version['Key']}", version_id), "0")
    if version_id != "null":
        described["version-id"] = version_id
    return {
        "version": "0",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "time": version["LastModified"].strftime("%Y-%m-%dT%H:%M:%SZ"),
        "detail": {"version": "0", "bucket": {"name": wanted.bucket}, "object": described, "reason": "backfill"},
    }


sent = 0
for page in s3.get_paginator("list_object_versions").paginate(Bucket=wanted.bucket, Prefix=wanted.prefix):
    newest: list[Any] = [version for version in page.get("Versions", []) if version["IsLatest"]]
    for first in range(0, len(newest), 10):  # SQS takes ten at once
        entries: list[Any] = [
            {"Id": str(number), "MessageBody": json.dumps(event(version))}
            for number, version in enumerate(newest[first : first + 10])
        ]
        if failed := sqs.send_message_batch(QueueUrl=wanted.queue, Entries=entries).get("Failed"):
            raise SystemExit(f"{sent} objects were sent, then SQS refused some: {failed}; run it again")
        sent += len(entries)
print(f"sent {sent} objects")  # noqa: T201
