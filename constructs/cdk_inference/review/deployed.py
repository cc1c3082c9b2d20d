"""Reads what is deployed: the templates of stacks, and what the packages of their functions hold."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import mapping
from cdk_inference.review.access.names import Names
from cdk_inference.review.assembly import Assembly, labels_of, nested_path, recorded_costs, text_in_package
from cdk_inference.review.errors import ReviewError

if TYPE_CHECKING:
    import boto3

    from cdk_inference.review.template import Resource, Template

_NESTED = "AWS::CloudFormation::Stack"
_CHUNK = 2**18  # bytes of a package that are read at once: its list of files is at its end


def read_deployed(after: Assembly, session: boto3.Session | None = None) -> Assembly:
    """Read the templates that are deployed under the names of an app's stacks; those that are not are left out.

    Parameters
    ----------
    after
        The app.
    session
        The credentials. Default: boto3's own.

    Raises
    ------
    ReviewError
        If boto3 is not installed.
    """
    try:
        import boto3  # noqa: PLC0415 - for those who compare with what is deployed
        from botocore.exceptions import ClientError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ReviewError("boto3 must be installed; pip install 'cdk-inference[review]'") from error
    session = session or boto3.Session(region_name=os.environ.get("AWS_REGION"))  # which boto3 does not read
    found = Assembly("what is deployed", {})
    for template in after.templates.values():
        if template.nested:
            continue
        region = template.region or session.region_name
        client = session.client("cloudformation", region_name=region)
        try:
            body = _body(client, template.stack_name)
        except ClientError as error:
            if "does not exist" in str(error):
                continue
            raise
        _add(client, replace(template, body=body), template.stack_name, found.templates)
    for template in found.templates.values():
        found.costs.update(recorded_costs(template))
        found.labels.update(deployed_labels(template, session))
    return found


def _add(client: Any, template: Template, stack: str, into: dict[str, Template]) -> None:  # noqa: ANN401 - boto3's
    into[template.path] = template
    for resource in template.of_type(_NESTED):
        said = client.describe_stack_resource(StackName=stack, LogicalResourceId=resource.logical_id)
        name = said["StackResourceDetail"]["PhysicalResourceId"]
        path = nested_path(resource)
        inner = replace(template, path=path, body=_body(client, name), nested=True)
        _add(client, inner, name, into)


def _body(client: Any, stack: str) -> dict[str, Any]:  # noqa: ANN401 - boto3's
    body = client.get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise ReviewError(f"the template of {stack} must be JSON, got YAML; deploy the stack with CDK") from error
    return dict(body)


def deployed_labels(template: Template, session: boto3.Session) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the names of the classes that deployed functions have, by the paths of stack and function.

    A function has few names in its environment, and many in its package, which is in a bucket of CDK. Without the right
    to read that bucket they are not known.
    """
    region = template.region or session.region_name
    found = {}
    for function in template.of_type("AWS::Lambda::Function"):
        read = partial(_text_in_bucket, template, function, session, region)
        labels = labels_of(function, read)
        if labels is not None:
            found[template.path, function.path] = labels
    return found


def _text_in_bucket(
    template: Template, function: Resource, session: boto3.Session, region: str, name: str
) -> str | None:
    """Return the text of a file in a function's package; None if nobody may read it."""
    from botocore.exceptions import ClientError  # noqa: PLC0415 - see above

    code = mapping(function.properties.get("Code"))
    if "S3Key" not in code:
        return None
    try:
        account = template.account or session.client("sts", region_name=region).get_caller_identity()["Account"]
        place = mapping(Names(replace(template, account=account, region=region)).resolve(code))
        client = session.client("s3", region_name=region)
        file = _StoredFile(client, str(place.get("S3Bucket")), str(place["S3Key"]))
        return text_in_package(io.BufferedReader(file, _CHUNK), name)
    except ClientError:
        return None


class _StoredFile(io.RawIOBase):
    """An object of S3 that is read in parts: a package may have hundreds of megabytes, and a list of names has few.

    Parameters
    ----------
    client
        The client of S3.
    bucket, key
        The object.
    """

    def __init__(self, client: Any, bucket: str, key: str) -> None:  # noqa: ANN401 - boto3's
        self._client = client
        self._object = {"Bucket": bucket, "Key": key}
        self._size = int(client.head_object(**self._object)["ContentLength"])
        self._at = 0

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can be read at any place."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any buffer
        """Read what is at the place, at most as much as the buffer takes."""
        last = min(self._at + len(buffer), self._size) - 1
        if last < self._at:
            return 0
        part = self._client.get_object(**self._object, Range=f"bytes={self._at}-{last}")["Body"].read()
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
