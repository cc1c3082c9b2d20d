"""An audit log that is deployed, as somebody who asks it sees it."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import InferenceError
from cdk_inference.local.stacks import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from cdk_inference.local.stacks import Resource

_FOLDER = "records/"


class AuditError(InferenceError):
    """An audit log is not there."""


class DeployedLog:
    """A deployed audit log.

    Parameters
    ----------
    bucket
        The bucket, as it is deployed.
    session
        A session of boto3.
    """

    def __init__(self, bucket: Resource, session: Any) -> None:  # noqa: ANN401 - boto3 makes its classes at run time
        self._bucket, self._secret = bucket.physical_id, bucket.metadata["secret"]
        self._s3, self._session = session.client("s3"), session

    @classmethod
    def find(cls, session: Any, stack: str, log: str | None = None) -> DeployedLog:  # noqa: ANN401
        """Find a log by the metadata of its stack.

        Parameters
        ----------
        session
            A session of boto3.
        stack
            The name of the stack.
        log
            The path of the log, if the stack has several.

        Raises
        ------
        AuditError
            There is none, or more than one to choose from.
        """
        bucket = Stack(session.client("cloudformation"), stack).the_one(
            "audit-log",
            log=log,
            missing="stack must have an audit log, {}; name the stack of the AuditLog",
            error=AuditError,
        )
        return cls(bucket, session)

    def records(self, first: date, last: date, *, pipeline: str | None = None) -> Iterator[dict[str, Any]]:
        """Read the records of some days, each once, by day.

        Parameters
        ----------
        first, last
            The days, in UTC.
        pipeline
            Only those of this pipeline, as metrics name it, such as ``"photos-prod/Photos"``.
        """
        if pipeline is not None:
            pipelines = [f"{_FOLDER}pipeline={pipeline.replace('/', '.')}/"]
        else:
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=_FOLDER, Delimiter="/"
            )
            pipelines = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", ())]
        for number in range((last - first).days + 1):
            day, seen = first + timedelta(days=number), set()
            for folder in pipelines:
                for record in self._read(f"{folder}date={day.isoformat()}/"):
                    if record["record"] not in seen:
                        seen.add(record["record"])
                        yield record

    def about(self, name: str, first: date, last: date, *, pipeline: str | None = None) -> Iterator[dict[str, Any]]:
        """Read the records about an object.

        Parameters
        ----------
        name
            ``bucket/key`` of the object.
        first, last, pipeline
            As those of `records`.
        """
        pseudonym = self.pseudonym(name)
        return (one for one in self.records(first, last, pipeline=pipeline) if one.get("object") == pseudonym)

    def pseudonym(self, text: str) -> str:
        """Return what stands in the log for the name of an object, or for the ``answer_sha256`` of a row."""
        secret = self._session.client("secretsmanager").get_secret_value(SecretId=self._secret)["SecretString"]
        return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()

    def _read(self, prefix: str) -> Iterator[dict[str, Any]]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            for each in page.get("Contents", ()):
                body = self._s3.get_object(Bucket=self._bucket, Key=each["Key"])["Body"].read()
                yield from map(json.loads, body.splitlines())
