"""A component of AWS IoT Greengrass that scores on the device, and sends the pipeline what it is unsure of."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from aws_cdk import Annotations, CfnOutput, Size, Stack, Token
from aws_cdk import aws_greengrassv2 as greengrass
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from cdk_inference.bundling.bundle import BundledCode, files_zip
from cdk_inference.bundling.zip_files import size_of
from cdk_inference.common.contents import content_digest, hash_once
from cdk_inference.common.metadata import add_metadata, metrics_name
from cdk_inference.common.platform import CONTEXT_KEY, LambdaPlatform
from cdk_inference.common.props.descriptions import described
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.sizes import bytes_text
from cdk_inference.common.props.validation import check, check_at_least, check_choice
from cdk_inference.costs.edge import EdgeCosts
from cdk_inference.edge.inputs import LEAST_UPLINK, check_path, check_setting
from cdk_inference.edge.package import EdgePackage, deflated, with_version
from cdk_inference.edge.recipe import SETTINGS, THING, Artifact, recipe
from cdk_inference.edge.units import Installation, parameter_name, write_installation
from cdk_inference.errors import PropError
from cdk_inference.routing.packaged import bundling_scope
from cdk_inference.stages.postprocess import row_environment
from cdk_inference.stages.preprocess import DEFAULT_MAX_OBJECT_BYTES
from cdk_inference.storage import encryption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aws_cdk import Duration

    from cdk_inference.costs.edge import EdgeTraffic
    from cdk_inference.costs.options import Option, PipelineShape
    from cdk_inference.costs.prices import Prices
    from cdk_inference.edge.escalation import EdgeEscalation
    from cdk_inference.edge.inputs import EdgeInput
    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.routing.route import Route
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.triggers.base import IS3Trigger

EdgeArchitecture = Literal["arm64", "x86_64"]

FOLDER = "edge/"
"""The folder of the inbox that devices write."""

ROWS = "edge:"
"""The begin of the partition keys of devices' rows."""

_MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
_GLIBC = "manylinux_2_28"  # Debian 10, Amazon Linux 2023 and what is newer: the wheels of numpy need no newer one
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_RESERVED = "aws.greengrass."
_VERSION = re.compile(r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})")
_DEVICE = re.compile(r"[A-Za-z0-9:_-]{1,128}")
_TARGET = re.compile(r"arn:[a-z-]+:iot:[a-z0-9-]+:[0-9]{12}:thing(group)?/[A-Za-z0-9:_-]{1,128}")
_COMPONENT_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+[A-Za-z0-9.+-]*")
_LONGEST_NAME = 128
_LONGEST_DESCRIPTION = 200  # nucleus lite has 2 KB for the whole unit
# Nucleus lite has 8,196 bytes (modules/ggl-recipe/src/recipe.c). The names of bucket and table, which are tokens here,
# may be longer.
_LONGEST_RECIPE = 7_400
_LONGEST_URI = 160  # with the largest name of a bucket
_LONGEST_VERSION = 21
_LONG_SETTING = 200
_PATCH_DIGITS = 7  # hexadecimal, so that all parsers of versions can hold the number
_NOTICE_SECONDS = 60
_DAY_SECONDS = 86_400
_ROW_BYTES = 64 * 1024  # that the agent keeps free for the row of an item


@check_props
class DeviceName:
    """Variables of policies that stand for the device that asks, for `EdgeComponent.grant_device`."""

    OF_THING = "${credentials-iot:ThingName}"
    """The thing whose certificate got credentials from AWS IoT: all devices with Greengrass."""

    OF_CERTIFICATE = "${aws:PrincipalTag/x509Subject/CN}"
    """The common name of the certificate that got credentials from IAM Roles Anywhere."""


@check_props
class EdgeComponent(Construct):
    """Scores on devices, and sends the pipeline what they are unsure of; made by `pipeline.add_edge`.

    A package for each architecture, with the agent, the stages and the model, is an asset. A component of AWS IoT
    Greengrass runs it, on the classic nucleus and on nucleus lite. A parameter for each architecture tells devices
    without Greengrass which package is the wanted one.

    The version of the component ends in a number that comes from its content, since AWS never changes a version. The
    same content keeps its version.

    Parameters
    ----------
    pipeline
        The pipeline.
    trigger, results
        Its inbox, and its table; no table if what devices answer themselves is to have no rows.
    route
        The route that the devices run.
    escalation
        Which items they send.
    inputs, architectures, python, name, version, max_spool, max_uplink, results_folder, traffic, prices
        See `InferencePipeline.add_edge`.
    cloud, shape
        The pipeline as the estimates of costs take it; None if its costs are not known.
    result_ttl
        The time after which DynamoDB deletes a row. Default: rows stay.

    Attributes
    ----------
    component
        The version of the component; None in the local target, which has no Greengrass.
    component_name, component_version
        As Greengrass has them.
    parameters
        By architecture, the parameter with bucket, key, SHA-256 and version of the package, as JSON.
    escalation
        The threshold, and how it was found.
    costs
        The estimate for the expected traffic; None if none was given or the share of escalated items is not known.

    Raises
    ------
    PropError
        A prop cannot work; the message names it, its value and the fix.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        pipeline: OperatedPipeline,
        trigger: IS3Trigger,
        results: IResultsTable | None,
        route: Route,
        escalation: EdgeEscalation,
        inputs: Sequence[EdgeInput],
        architectures: Sequence[EdgeArchitecture] = ("arm64", "x86_64"),
        python: str = "3.13",
        name: str | None = None,
        version: str = "1.0",
        max_spool: Size | None = None,
        max_uplink: Size | None = None,
        results_folder: str | None = None,
        traffic: EdgeTraffic | None = None,
        prices: Prices | None = None,
        cloud: Option | None = None,
        shape: PipelineShape | None = None,
        result_ttl: Duration | None = None,
    ) -> None:
        super().__init__(scope, id)
        self.component_name = _checked_name("name", name if name is not None else _default_name(self))
        check(_VERSION.fullmatch(version) is not None, "version", "of the form '1.0'", f"'{version}'")
        self._trigger, self._results, self._python, self.escalation = trigger, results, python, escalation
        self._settings = _settings(inputs, trigger, max_spool, max_uplink, results_folder)
        if result_ttl is not None and result_ttl.is_unresolved():
            raise PropError("result_ttl must be known at synth for devices, got a token; give a Duration")
        rows = {} if results is None else row_environment(results, result_ttl)
        self._package = EdgePackage(pipeline, route, self.component_name, escalation.threshold, rows)
        self._platforms = _platforms(self, architectures, python)
        self._about = described(f"scores on devices for {pipeline.node.path}", _LONGEST_DESCRIPTION)
        self._check_recipe()
        if max_spool is not None:
            self._check_spool("max_spool", int(max_spool.to_bytes()))
        self.component_version, zips = self._built(version)
        self._assets = {
            architecture: s3_assets.Asset(
                # By its bytes, which the parameter names: another library makes another zip of the same content.
                self,
                f"Package-{architecture}",
                path=str(code.zip_path),
                asset_hash=hash_once(code.zip_path),
            )
            for architecture, code in zips.items()
        }
        rate = escalation.rate
        self.costs = (
            None
            if traffic is None or rate is None
            else EdgeCosts(
                traffic=traffic,
                escalation=rate,
                cloud=cloud,
                shape=shape,
                rows=results is not None,
                prices=prices,
            )
        )
        self.component = self._component()
        self.parameters = {
            architecture: self._parameter(architecture, asset, zips[architecture])
            for architecture, asset in self._assets.items()
        }
        self._report()

    def _built(self, version: str) -> tuple[str, dict[EdgeArchitecture, BundledCode]]:
        """Return the version of the component, and its packages."""
        names = [platform.architecture for platform in self._platforms]
        if not Stack.of(self).bundling_required:
            empty = {name: files_zip(self, name=self.component_name, sources={}) for name in names}
            return f"{version}.0", empty
        contents = {platform.architecture: self._package.contents(platform) for platform in self._platforms}
        whole = self._version_of(version, contents)
        return whole, {name: self._zip(files, whole) for name, files in contents.items()}

    def _version_of(self, version: str, contents: Mapping[EdgeArchitecture, Mapping[str, Path | bytes]]) -> str:
        # The names of the assets follow from their contents.
        blank = self._recipe("", [Artifact(architecture, "", "") for architecture in contents])
        digests = {architecture: content_digest(files) for architecture, files in contents.items()}
        text = json.dumps([Stack.of(self).resolve(blank), digests, deflated()], sort_keys=True)
        return f"{version}.{int(sha256(text.encode()).hexdigest()[:_PATCH_DIGITS], 16)}"

    def _zip(self, files: Mapping[str, Path | bytes], version: str) -> BundledCode:
        return files_zip(self, name=self.component_name, sources=with_version(files, version))

    def _check_spool(self, name: str, size: int) -> None:
        """Refuse a space that is too small for an object, with its row."""
        given = self._package.pipeline.max_object_size
        least = (int(DEFAULT_MAX_OBJECT_BYTES) if given is None else int(given.to_bytes())) + _ROW_BYTES
        if size < least:
            raise PropError(
                f"{name} must hold an object of max_object_size and its row, {least:,} bytes, got {size:,}; give it "
                "more, or the pipeline a smaller max_object_size"
            )

    def _check_recipe(self) -> None:
        """Refuse settings that make the recipe too long, before anything is built."""
        artifacts = [Artifact(platform.architecture, "x" * _LONGEST_URI, "x" * 64) for platform in self._platforms]
        size = len(json.dumps(self._recipe("x" * _LONGEST_VERSION, artifacts), ensure_ascii=False).encode())
        if size > _LONGEST_RECIPE:
            settings = ", ".join(name for name, value in self._settings.items() if len(value) > _LONG_SETTING)
            raise PropError(
                f"the recipe of {self.component_name} must have at most {_LONGEST_RECIPE:,} bytes, which nucleus lite "
                f"reads, got {size:,}; shorten {settings or 'the name'}"
            )

    def _recipe(self, version: str, artifacts: Sequence[Artifact]) -> dict[str, object]:
        stack = Stack.of(self)
        variables = {
            "AWS_REGION": stack.region,
            "INBOX_BUCKET": self._trigger.bucket.bucket_name,
            "INBOX_PREFIX": f"{self._trigger.prefix}{FOLDER}{THING}/",
        }
        if self._results is not None:
            variables["RESULTS_TABLE"] = self._results.table.table_name
        return recipe(
            name=self.component_name,
            version=version,
            description=self._about,
            python=self._python,
            settings=self._settings,
            variables=variables,
            artifacts=artifacts,
        )

    def _component(self) -> greengrass.CfnComponentVersion | None:
        if self.node.try_get_context(CONTEXT_KEY) is not None:  # the local target has no Greengrass
            return None
        artifacts = [
            Artifact(architecture, f"s3://{asset.s3_bucket_name}/{asset.s3_object_key}", _folder(asset))
            for architecture, asset in self._assets.items()
        ]
        text = Stack.of(self).to_json_string(self._recipe(self.component_version, artifacts))
        component = greengrass.CfnComponentVersion(self, "Component", inline_recipe=text)
        add_metadata(component, "edge", **self._facts())
        return component

    def _parameter(self, architecture: EdgeArchitecture, asset: s3_assets.Asset, code: BundledCode) -> ssm.CfnParameter:
        wanted = {
            "bucket": asset.s3_bucket_name,
            "key": asset.s3_object_key,
            "sha256": hash_once(code.zip_path),
            "version": self.component_version,
        }
        parameter = ssm.CfnParameter(
            self,
            f"Wanted-{architecture}",
            name=parameter_name(self.component_name, architecture),
            type="String",
            value=Stack.of(self).to_json_string(wanted),
            description=described(f"the package that devices of {architecture} install: {self._about}", 1024),
        )
        add_metadata(parameter, "edge-package", architecture=architecture, **self._facts())
        return parameter

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {
            "component": self.component_name,
            "version": self.component_version,
            "threshold": self.escalation.threshold,
            **({} if self.escalation.rate is None else {"escalation": self.escalation.rate}),
        }
        if self.escalation.calibration is not None:
            facts["calibration"] = self.escalation.calibration.manifest()
        if self.costs is not None:
            traffic = self.costs.traffic
            facts["expected"] = {
                "devices": traffic.devices,
                "items_per_day": traffic.items_per_day,
                "item_bytes": traffic.item_bytes,
                "items_sent_per_day": round(self.costs.items_sent_per_day, 2),
                "bytes_sent_per_day": round(self.costs.bytes_sent_per_day),
                "usd_per_month": _rounded(self.costs.usd_per_month),
                "cloud_usd_per_month": _rounded(self.costs.cloud_usd_per_month),
                **self._uplink_share(self.costs.bytes_sent_per_day),
                "usd_by": {name: _rounded(usd) for name, usd in self.costs.items().items()},
            }
        return facts

    def _uplink_share(self, bytes_per_day: float) -> dict[str, float]:
        """Return the share of the uplink's limit that a device needs; nothing if there is no limit."""
        limit = self._settings.get("UPLINK_BYTES_PER_SECOND")
        return {} if limit is None else {"uplink_share": round(bytes_per_day / (_DAY_SECONDS * int(limit)), 4)}

    def _report(self) -> None:
        names = {"INBOX_BUCKET": self._trigger.bucket.bucket_name}
        if self._results is not None:
            names["RESULTS_TABLE"] = self._results.table.table_name
        value = " ".join(f"{name}={value}" for name, value in names.items())
        CfnOutput(self, "Settings", value=value, description="settings of devices without Greengrass")
        calibration = self.escalation.calibration
        lines = [] if calibration is None else [calibration.summary]
        lines += [] if self.costs is None else [self.costs.summary]
        if lines:
            CfnOutput(self, "Summary", value="; ".join(lines), description="what devices answer, send and cost")
        if calibration is not None and calibration.warning:
            Annotations.of(self).add_warning_v2("cdk-inference:edge", calibration.warning)

    def write_installation(self, folder: Path, architecture: EdgeArchitecture) -> list[Path]:
        """Write what installs the component on a device without Greengrass, and return the paths.

        The stack need not be one that CDK bundles.

        Parameters
        ----------
        folder
            Where package, units, settings and script go; made if missing.
        architecture
            One of the component's.

        Raises
        ------
        PropError
            The component is not for the architecture, or the stages cannot be bundled.
        ModelBuildError
            The model cannot be built.
        """
        names = [platform.architecture for platform in self._platforms]
        check_choice(names, architecture=architecture)
        # All of them, since the version is that of the component.
        contents = {platform.architecture: self._package.contents(platform) for platform in self._platforms}
        version = self._version_of(self.component_version.rpartition(".")[0], contents)
        files = with_version(contents[architecture], version)
        code = files_zip(bundling_scope(), name=self.component_name, sources=files)
        installation = Installation(
            name=self.component_name,
            version=version,
            architecture=architecture,
            python=next(each.python for each in self._platforms if each.architecture == architecture),
            package=code.zip_path,
            model_bytes=sum(size_of(content) for name, content in files.items() if name.startswith("model/")),
            settings=self._settings,
            prefix=self._trigger.prefix,
            results=self._results is not None,
        )
        return write_installation(folder, installation)

    def add_deployment(
        self,
        id: str,
        *,
        target_arn: str,
        settings: Mapping[str, str] | None = None,
        components: Mapping[str, str] | None = None,
        iot_job_configuration: greengrass.CfnDeployment.DeploymentIoTJobConfigurationProperty | None = None,
    ) -> greengrass.CfnDeployment | None:
        """Deploy the component to a thing, or to the things of a group, and go back where that fails.

        A device that cannot run the version gets the one that it had. Components may ask for time before they are
        stopped.

        Parameters
        ----------
        id
            The id of the deployment.
        target_arn
            The ARN of the thing or thing group. It has one deployment, so this one replaces another.
        settings
            Settings of these devices that differ from those of the component, such as ``WATCH_FOLDER``. Others become
            those of the component again, whatever a device has.
        components
            The other components that the target shall have, with their versions, such as ``{"aws.greengrass.Cli":
            "2.14.0"}``. Components that are not named are removed from the devices.
        iot_job_configuration
            How many devices of a group get the version in a minute, and when that ends. Default: AWS's.

        Returns
        -------
        CfnDeployment or None
            The deployment; None in the local target, which has no Greengrass.

        Raises
        ------
        PropError
            The target is neither a thing nor a thing group, or a version cannot be one. Or a setting does not exist, or
            cannot have its value.
        """
        if not Token.is_unresolved(target_arn):
            check(_TARGET.fullmatch(target_arn) is not None, "target_arn", "that of a thing or thing group", target_arn)
        for name, value in (settings or {}).items():
            check_choice(SETTINGS, settings=name)
            check_setting(name, value)
            if name == "MAX_SPOOL_BYTES" and value:
                self._check_spool(f"settings {name}", int(value))
            if self._trigger.suffixes and name in ("MQTT_TOPIC", "WATCH_SUFFIXES") and value:
                raise PropError(f"settings must leave {name} to the trigger, which has suffixes, got '{value}'")
        for name, version in (components or {}).items():
            _checked_name("components", name, own=False)
            fits = _COMPONENT_VERSION.fullmatch(version) is not None
            check(fits, "components", "versions such as '2.14.0'", f"'{version}' of '{name}'")
        if self.component is None:
            return None
        # Without a reset, a device keeps what it has, also where the defaults of the component are others now.
        update = greengrass.CfnDeployment.ComponentConfigurationUpdateProperty(
            reset=[""], merge=json.dumps(dict(settings or {}), sort_keys=True)
        )
        own = greengrass.CfnDeployment.ComponentDeploymentSpecificationProperty(
            component_version=self.component_version, configuration_update=update
        )
        others = {
            name: greengrass.CfnDeployment.ComponentDeploymentSpecificationProperty(component_version=version)
            for name, version in (components or {}).items()
        }
        deployment = greengrass.CfnDeployment(
            self,
            id,
            target_arn=target_arn,
            deployment_name=described(f"{self.component_name} {self.component_version}", 256),
            components={**others, self.component_name: own},
            deployment_policies=greengrass.CfnDeployment.DeploymentPoliciesProperty(
                failure_handling_policy="ROLLBACK",
                component_update_policy=greengrass.CfnDeployment.DeploymentComponentUpdatePolicyProperty(
                    action="NOTIFY_COMPONENTS", timeout_in_seconds=_NOTICE_SECONDS
                ),
            ),
            iot_job_configuration=iot_job_configuration,
        )
        deployment.node.add_dependency(self.component)
        return deployment

    def grant_device(self, grantee: iam.IGrantable, *, device: str = DeviceName.OF_THING) -> iam.Grant:
        """Let devices do what the agent does, each for itself.

        A device reads the packages and which one is wanted, puts objects into its folder of the inbox, and writes rows
        under its name. It reads neither objects nor rows.

        Parameters
        ----------
        grantee
            The role of the devices: that of the token exchange of Greengrass, or one of IAM Roles Anywhere.
        device
            The name of the device in policies: a variable of `DeviceName`, or a name, if the role is that of one
            device. Default: `DeviceName.OF_THING`.

        Raises
        ------
        PropError
            The name is none that a device can have.
        """
        if device not in (DeviceName.OF_THING, DeviceName.OF_CERTIFICATE):
            fits = _DEVICE.fullmatch(device) is not None
            check(fits, "device", "a name of letters, digits, ':', '_' and '-', or of DeviceName", f"'{device}'")
        bucket = self._trigger.bucket
        encryption.grant(bucket.encryption_key, grantee, ("kms:GenerateDataKey",))
        allowed = {
            "s3:GetObject": [asset.bucket.arn_for_objects(asset.s3_object_key) for asset in self._assets.values()],
            "ssm:GetParameter": [_parameter_arn(self, name) for name in self.parameters],
            "s3:PutObject": [bucket.arn_for_objects(f"{self._trigger.prefix}{FOLDER}{device}/*")],
        }
        first, *others = (
            iam.Grant.add_to_principal(grantee=grantee, actions=[action], resource_arns=arns)
            for action, arns in allowed.items()
        )
        if self._results is not None:
            encryption.grant(self._results.encryption_key, grantee, encryption.TABLE)
            others.append(
                iam.Grant.add_to_principal(
                    grantee=grantee,
                    actions=["dynamodb:PutItem"],
                    resource_arns=[self._results.table.table_arn],
                    conditions={
                        "ForAllValues:StringLike": {"dynamodb:LeadingKeys": [f"{ROWS}{device}/*"]},
                        # For all of no values, the line above would be true.
                        "Null": {"dynamodb:LeadingKeys": "false"},
                    },
                )
            )
        for other in others:
            first = first.combine(other)
        return first


def _parameter_arn(edge: EdgeComponent, architecture: str) -> str:
    name = parameter_name(edge.component_name, architecture)
    return Stack.of(edge).format_arn(service="ssm", resource="parameter", resource_name=name.removeprefix("/"))


def _folder(asset: s3_assets.Asset) -> str:
    key = asset.s3_object_key
    if Token.is_unresolved(key):
        raise PropError(
            "the synthesizer of the stack must know the keys of its assets for a component, got one that does not; use "
            "DefaultStackSynthesizer"
        )
    return PurePosixPath(key).stem


def _platforms(scope: Construct, architectures: Sequence[str], python: str) -> list[LambdaPlatform]:
    check(len(architectures) > 0, "architectures", "one or two", "none")
    for architecture in architectures:
        check_choice(_MACHINES, architectures=architecture)
    if scope.node.try_get_context(CONTEXT_KEY) is not None:
        return [LambdaPlatform.resolve(scope)]
    return [
        LambdaPlatform(python, architecture, wheels=f"{_MACHINES[architecture]}-{_GLIBC}")  # type: ignore[arg-type]
        for architecture in dict.fromkeys(architectures)
    ]


def _settings(
    inputs: Sequence[EdgeInput],
    trigger: IS3Trigger,
    max_spool: Size | None,
    max_uplink: Size | None,
    results_folder: str | None,
) -> dict[str, str]:
    kinds = [each.kind for each in inputs]
    check(len(kinds) > 0, "inputs", "one or more of EdgeInput", "none")
    for kind in kinds:
        check(kinds.count(kind) == 1, "inputs", "of different kinds", f"EdgeInput.{kind} {kinds.count(kind)} times")
    if trigger.suffixes and "mqtt" in kinds:
        raise PropError(
            f"trigger must take all keys for EdgeInput.mqtt, whose messages have no suffix, got {trigger.suffixes}; "
            "leave suffixes out"
        )
    if set(trigger.prefix) & {"{", "}"}:
        raise PropError(f"prefix must be without braces, which stand for variables in a recipe, got '{trigger.prefix}'")
    found = {name: value for each in inputs for name, value in each.settings().items()}
    if trigger.suffixes:
        # The spellings that the rule of the trigger has: an object with another one would never be scored.
        spelled = (text for suffix in trigger.suffixes for text in (suffix, suffix.lower(), suffix.upper()))
        found["WATCH_SUFFIXES"] = ",".join(dict.fromkeys(spelled))
    if results_folder is not None:
        check_path("results_folder", results_folder)
        found["RESULTS_FOLDER"] = results_folder
    if max_spool is not None:
        found["MAX_SPOOL_BYTES"] = _bytes("max_spool", max_spool)
    if max_uplink is not None:
        found["UPLINK_BYTES_PER_SECOND"] = text = _bytes("max_uplink", max_uplink)
        check_at_least(LEAST_UPLINK, max_uplink=int(text))
    return found


def _bytes(prop: str, size: Size) -> str:
    if size.is_unresolved():
        raise PropError(f"{prop} must be known at synth, since it is part of a version, got a token; give a Size")
    return bytes_text(prop, size)


def _default_name(scope: Construct) -> str:
    path = f"{metrics_name(scope)}/{scope.node.id}"
    name = re.sub(r"[^A-Za-z0-9_-]+", ".", path).strip(".")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{sha256(path.encode()).hexdigest()[:8]}"


def _checked_name(prop: str, name: str, *, own: bool = True) -> str:
    fits = _NAME.fullmatch(name) is not None
    check(fits, prop, f"1 to {_LONGEST_NAME} letters, digits, '.', '_' and '-'", f"'{name}'")
    reserved = own and name.lower().startswith(_RESERVED)
    check(not reserved, prop, f"a name of yours, without '{_RESERVED}'", f"'{name}'")
    return name


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 2)
