"""New code for deployed functions without a deployment, and the way back to what the template says."""

from __future__ import annotations

import importlib.util
import io
import json
import marshal
import sys
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cdk_inference.local import aws
from cdk_inference.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cdk_inference.local.stacks import Resource

LIVE = "cdk-inference: live code"
"""Description of the versions of functions that are published here; emulator/_ministack.py has the same."""

_ROOT = "/var/task"  # where Lambda has the package, and bytecode says that its source is
_WARMING = json.dumps({"cdk-inference": "warm"})
_OUR_HANDLERS = "inference_runtime.handlers."
_NOT_STARTED = "Worker init failed: "


class NotStartedError(LocalError):
    """A function does not start with its new code.

    Parameters
    ----------
    function
        The function, as users know it.
    traceback
        The traceback of its process.
    """

    def __init__(self, function: str, traceback: str) -> None:
        super().__init__(f"{function} cannot start with the new code:\n{traceback}")
        self.function = function
        self.traceback = traceback


@dataclass(frozen=True, eq=False)
class DeployedFunction:
    """A function whose package is an asset of the deployed app.

    Parameters
    ----------
    name
        Its physical name.
    label
        The name that users know it by.
    env
        Its account and region.
    package
        Bucket and key of the package.
    aliases
        The versions that the template gives its aliases, by the names of these.
    answers_warming
        Whether it answers a warming event without doing anything.
    """

    name: str
    label: str
    env: aws.Env
    package: tuple[str, str]
    aliases: Mapping[str, str]
    answers_warming: bool


def deployed_functions(resources: Iterable[Resource]) -> list[DeployedFunction]:
    """Return the functions among deployed resources whose packages are assets.

    Parameters
    ----------
    resources
        All resources of all stacks.
    """
    resources = list(resources)
    physical = {(each.env, each.stack, each.logical_id): each.physical_id for each in resources}
    aliases: dict[str, dict[str, str]] = {}
    for each in resources:
        if each.type != "AWS::Lambda::Alias":
            continue
        function, _, name = each.physical_id.rpartition(":")
        match each.properties.get("FunctionVersion"):
            case {"Fn::GetAtt": [version, *_]} if (each.env, each.stack, version) in physical:
                aliases.setdefault(function, {})[name] = physical[each.env, each.stack, version].rpartition(":")[2]
            case str(version):
                aliases.setdefault(function, {})[name] = version
    found = []
    for each in resources:
        code = each.properties.get("Code", {}) if each.type == "AWS::Lambda::Function" else {}
        bucket, key = _bucket(code.get("S3Bucket"), each.env), code.get("S3Key")
        if bucket is None or not isinstance(key, str):
            continue
        arn = f"arn:aws:lambda:{each.env.region}:{each.env.account}:function:{each.physical_id}"
        found.append(
            DeployedFunction(
                name=each.physical_id,
                label=each.label,
                env=each.env,
                package=(bucket, key),
                aliases=aliases.get(arn, {}),
                answers_warming=str(each.properties.get("Handler", "")).startswith(_OUR_HANDLERS),
            )
        )
    return found


@dataclass(frozen=True)
class PreparedCode:
    """A version of a function with new code, which nobody invokes yet.

    Parameters
    ----------
    function
        The function.
    version
        Its number.
    before
        The package that the function had before.
    versions
        The descriptions of the versions that there were before, by their numbers.
    """

    function: DeployedFunction
    version: str
    before: bytes
    versions: Mapping[str, str]


class LiveCode:
    """Gives functions code that is not in any template.

    Each time a new version is published, and the aliases that were on the newest one move to it. So what invokes an
    alias has the new code at once, and what is being invoked ends with the old code.

    Parameters
    ----------
    endpoint
        URL of the embedded AWS.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def package(self, function: DeployedFunction) -> bytes:
        """Return a function's package as it was deployed.

        Parameters
        ----------
        function
            The function.
        """
        bucket, key = function.package
        s3 = aws.client(self._endpoint, "s3", function.env)
        return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    def prepare(self, function: DeployedFunction, package: bytes, before: bytes) -> PreparedCode:
        """Publish a version of a function with another package, and start a process of it.

        Parameters
        ----------
        function
            The function.
        package
            The new package.
        before
            The package that it has now.

        Returns
        -------
        PreparedCode
            The version, which nobody invokes yet.

        Raises
        ------
        NotStartedError
            If it does not start. The function has the package that it had before, then.
        """
        lambda_ = self._client(function)
        versions = self._versions(function)
        self._update(function, package)
        version = str(lambda_.publish_version(FunctionName=function.name, Description=LIVE)["Version"])
        prepared = PreparedCode(function, version, before, versions)
        if function.answers_warming and (reason := self._reason_not_to_start(function, version)):
            self.undo(prepared)
            raise NotStartedError(function.label, reason)
        return prepared

    def go_live(self, prepared: PreparedCode) -> None:
        """Have the aliases that were on the newest version move to a prepared one.

        Parameters
        ----------
        prepared
            The result of `prepare`.
        """
        function, versions = prepared.function, prepared.versions
        lambda_, newest = self._client(function), max(versions, key=int, default=None)
        for alias in lambda_.list_aliases(FunctionName=function.name)["Aliases"]:
            if alias["FunctionVersion"] == newest:
                version = prepared.version
                lambda_.update_alias(FunctionName=function.name, Name=alias["Name"], FunctionVersion=version)
        self._delete(function, [number for number, description in versions.items() if description == LIVE])

    def undo(self, prepared: PreparedCode) -> None:
        """Give a function its old package back, and delete the prepared version.

        Parameters
        ----------
        prepared
            The result of `prepare`.
        """
        self._update(prepared.function, prepared.before)
        self._delete(prepared.function, [prepared.version])

    def restore(self, functions: Sequence[DeployedFunction]) -> list[str]:
        """Give functions the code that the template says, if they have other code.

        Parameters
        ----------
        functions
            The functions.

        Returns
        -------
        list of str
            The labels of those that had other code.
        """
        restored = []
        for function in functions:
            versions = self._versions(function)
            live = [number for number, description in versions.items() if description == LIVE]
            if not live:
                continue
            published = max(versions.keys() - live, key=int, default="$LATEST")  # for aliases of no template
            lambda_, (bucket, key) = self._client(function), function.package
            lambda_.update_function_code(FunctionName=function.name, S3Bucket=bucket, S3Key=key)
            for alias in lambda_.list_aliases(FunctionName=function.name)["Aliases"]:
                if alias["FunctionVersion"] in live:
                    version = function.aliases.get(alias["Name"], published)
                    lambda_.update_alias(FunctionName=function.name, Name=alias["Name"], FunctionVersion=version)
            self._delete(function, live)
            restored.append(function.label)
        return restored

    def _reason_not_to_start(self, function: DeployedFunction, version: str) -> str | None:
        """Start a process of a version, which then waits for work, and return the traceback if it does not start."""
        try:
            answer = self._client(function).invoke(FunctionName=function.name, Qualifier=version, Payload=_WARMING)
        except ClientError:
            return None  # such as without any concurrency: the first invocation tells
        said = json.load(answer["Payload"])
        message = str(said.get("errorMessage", "")) if "FunctionError" in answer else ""
        if not message.startswith(_NOT_STARTED):
            return None
        return "".join(said.get("stackTrace", [])) or message.removeprefix(_NOT_STARTED)

    def _versions(self, function: DeployedFunction) -> dict[str, str]:
        """Return the descriptions of the published versions by their numbers."""
        pages = self._client(function).get_paginator("list_versions_by_function").paginate(FunctionName=function.name)
        return {
            str(version["Version"]): str(version.get("Description", ""))
            for page in pages
            for version in page["Versions"]
            if version["Version"] != "$LATEST"
        }

    def _update(self, function: DeployedFunction, package: bytes) -> None:
        """Give a function a package by way of the bucket of assets, which takes a third of the time of a request."""
        s3, (bucket, _) = aws.client(self._endpoint, "s3", function.env), function.package
        key = f"live-code/{function.name}.zip"
        put = s3.put_object(Bucket=bucket, Key=key, Body=package)
        self._client(function).update_function_code(FunctionName=function.name, S3Bucket=bucket, S3Key=key)
        # For good: the bucket keeps versions, and each save would leave a package there.
        version = {"VersionId": put["VersionId"]} if "VersionId" in put else {}
        s3.delete_object(Bucket=bucket, Key=key, **version)

    def _delete(self, function: DeployedFunction, versions: Iterable[str]) -> None:
        for version in versions:
            self._client(function).delete_function(FunctionName=function.name, Qualifier=version)

    def _client(self, function: DeployedFunction) -> Any:  # noqa: ANN401
        return aws.client(self._endpoint, "lambda", function.env)


def checksums(package: bytes) -> dict[str, tuple[int, int]]:
    """Return checksum (CRC-32) and size of the Python modules in a package, by their names in it.

    Parameters
    ----------
    package
        The zip.
    """
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {i.filename: (i.CRC, i.file_size) for i in archive.infolist() if i.filename.endswith(".py")}


def with_modules(package: bytes, modules: Mapping[str, bytes]) -> bytes:
    """Return a package with other contents of some of its modules, and of their bytecode if it has that.

    The rest is neither unpacked nor packed again.

    Parameters
    ----------
    package
        The zip.
    modules
        The new contents, by the names in the package. They can be compiled.
    """
    data = io.BytesIO(package)
    with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, source in modules.items():
            path = PurePosixPath(name)
            bytecode = f"{path.parent / '__pycache__' / path.stem}.{sys.implementation.cache_tag}.pyc"
            _replace(archive, name, source)
            if bytecode in archive.NameToInfo:
                _replace(archive, bytecode, _compiled(name, source))
    return data.getvalue()


def _replace(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Replace a file of a zip: the old one stays among the bytes, and nothing points at it."""
    old = archive.NameToInfo.pop(name)
    archive.filelist.remove(old)
    new = zipfile.ZipInfo(name, old.date_time)
    new.external_attr, new.compress_type = old.external_attr, old.compress_type
    archive.writestr(new, content)


def _compiled(name: str, source: bytes) -> bytes:
    """Return bytecode as bundles have it: Python takes it without a look at the source."""
    code = compile(source, f"{_ROOT}/{name}", "exec", dont_inherit=True, optimize=0)
    by_hash, unchecked = importlib.util.source_hash(source), (0b01).to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + unchecked + by_hash + marshal.dumps(code)


def _bucket(value: object, env: aws.Env) -> str | None:
    """Return the name of a bucket of assets, which the template leaves to the place of the stack; None for others."""
    match value:
        case {"Fn::Sub": str(text)} | str(text):
            places = {"${AWS::AccountId}": env.account, "${AWS::Region}": env.region, "${AWS::Partition}": "aws"}
            for name, place in places.items():
                text = text.replace(name, place)
            return None if "${" in text else text
    return None
