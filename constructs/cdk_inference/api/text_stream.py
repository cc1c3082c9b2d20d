"""A function URL that answers with text as a model writes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Unpack, cast

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_

from cdk_inference.api.content_types import check_content_types
from cdk_inference.bundling.delivery import ImageDelivery, ModelDelivery, ModelPackage
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.capacity.strategy import ON_DEMAND
from cdk_inference.common.metadata import add_metadata, model_facts
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.costs.memory import warn_of_memory
from cdk_inference.errors import PropError
from cdk_inference.stages.base import FunctionOptions, StageFunction
from cdk_inference.stages.inference import engine_environment
from cdk_inference.stages.longest_text import check_longest_text
from cdk_inference.stages.preprocess import reading_environment
from cdk_inference.stages.stage_code import STOP, TOKENIZER_FILE
from cdk_inference.stages.tokenizer import check_decodes, check_stop, tokenizer_file
from inference_runtime.model import DRIVER_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aws_cdk import Size
    from aws_cdk import aws_ec2 as ec2
    from constructs import Construct

    from cdk_inference.bundling.packages import Engine
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.recipe.sources import Download, HubFile, PackageFile
    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.stages.stage_code import StageCode

HANDLER = "inference_runtime.handlers.write_text.handler"

_SENT_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
)
"""The headers of a request that pages may send: those of its signature, and those that the function reads."""

_SCRIPT_FILE = "write_text"
_SCRIPT = b"""#!/bin/sh
# Lambda starts this script in place of its Python client, and passes the command line of that client as arguments.
cd "$LAMBDA_TASK_ROOT" && exec "$1" -m inference_runtime.handlers.write_text
"""


@check_props
class TextStream(StageFunction):
    """A function URL whose callers read a text while a model writes it.

    Callers are principals of IAM that may, see `grant_invoke`. They send what the preprocessing reads by POST, and get
    events (``text/event-stream``). Each has the next characters, ``{"text"}``. The last one is called ``end``, and has
    ``finish_reason``, ``tokens`` and ``model_version``. No row is written.

    Parameters
    ----------
    model
        The artifact. Its recipe has the driver `Greedy` or `Sampling`, and a prompt; ``max_steps`` bounds each text.
    preprocess
        How the bytes of a request become the prompt, such as `Preprocess.text`.
    tokenizer
        The model's ``tokenizer.json``, byte-level or of SentencePiece: a path, or where it comes from.
    stop
        Strings before the first of which a text ends, at most 8. The model writes nothing after it. A request may have
        more, as ``"stop": ["User:"]`` next to its text. Default: none.
    content_types
        The media types that requests may have, such as ``["application/json"]``. Default: any.
    max_object_size
        Larger requests are refused. Default: 64 MiB, of which AWS takes 6.
    allowed_origins
        The origins of web pages that may call. Default: none.
    memory_size
        Default: 1,769 MiB, one vCPU.
    timeout
        The longest time of a text; what was written until then is sent. Default: one minute.
    capacity
        Where environments come from. Default: Lambda makes them on demand.
    engine, delivery
        As those of `CpuInference`; not as a container image.
    **options
        As those of `StageFunction`.

    Attributes
    ----------
    url
        Where to send requests.
    function_url
        The function URL, for everything this construct does not cover.

    Raises
    ------
    PropError
        The model does not write, a stage does not fit it, the model comes in an image, or the function is in a VPC. Or
        a string of ``stop`` is empty.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        model: ModelArtifact,
        preprocess: Preprocess,
        tokenizer: str | Path | Download | HubFile | PackageFile,
        stop: Sequence[str] = (),
        content_types: Sequence[str] = (),
        max_object_size: Size | None = None,
        allowed_origins: Sequence[str] = (),
        memory_size: int = 1769,
        timeout: Duration | None = None,
        capacity: CapacityStrategy | None = None,
        engine: Engine | None = None,
        delivery: ModelDelivery | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        _check_writes(model)
        _check_network(options.get("vpc"), capacity)
        check_content_types(content_types)
        check_stop(stop)
        path = tokenizer_file(tokenizer)
        check_decodes(path)
        if STOP in preprocess.offers:
            preprocess = preprocess.keeping((STOP,))
        code = preprocess.bind(model.inputs)
        check_longest_text(model, preprocess, model.project)
        super().__init__(
            scope,
            id,
            package=ModelPackage(
                package=ZipPackage(
                    handler=HANDLER,
                    runtime_requirements=code.runtime_requirements,
                    requirements=code.requirements,
                    excluded_requirements=code.excluded_requirements,
                    sources={**_files(code, path), _SCRIPT_FILE: _SCRIPT},
                ),
                model=model,
                memory_size=memory_size,
                engine=engine,
                delivery=delivery if delivery is not None else ModelDelivery.auto(),
            ),
            description=f"streams what {model.manifest.name} writes",
            environment={
                **code.environment("PREPROCESS"),
                **reading_environment(preprocess, model, max_object_size),
                **engine_environment(model),
                "TOKENIZER_FILE": TOKENIZER_FILE,
                "AWS_LAMBDA_EXEC_WRAPPER": f"/var/task/{_SCRIPT_FILE}",
                **({"TEXT_STOP": json.dumps(list(stop))} if stop else {}),
                **({"API_CONTENT_TYPES": " ".join(content_types)} if content_types else {}),
            },
            memory_size=memory_size,
            timeout=timeout if timeout is not None else Duration.minutes(1),
            capacity=capacity if capacity is not None else ON_DEMAND,
            **options,
        )
        if isinstance(delivery, ImageDelivery) or self.function.runtime == lambda_.Runtime.FROM_IMAGE:
            raise PropError(
                f"delivery of {self.node.path} must not be an image, in which Lambda runs no wrapper script; use "
                "ModelDelivery.s3(), or a smaller model"
            )
        self.model_version = model.version
        add_metadata(
            self.function,
            "function",
            stage=id,
            model=model_facts(model.manifest),
            text_stream=self.node.path,
            content_types=list(content_types),
        )
        warn_of_memory(self, model, memory_size)
        cors = lambda_.FunctionUrlCorsOptions(
            allowed_origins=list(allowed_origins),
            allowed_methods=[lambda_.HttpMethod.POST],
            allowed_headers=list(_SENT_HEADERS),
        )
        self.function_url = lambda_.FunctionUrl(
            self,
            "Url",
            function=cast("Any", self.target),
            auth_type=lambda_.FunctionUrlAuthType.AWS_IAM,
            invoke_mode=lambda_.InvokeMode.RESPONSE_STREAM,
            cors=cors if allowed_origins else None,
        )
        self.url = self.function_url.url

    def grant_invoke(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let the grantee ask for texts by the URL, and invoke the function in no other way."""
        return iam.Grant.add_to_principal(
            grantee=grantee,
            actions=["lambda:InvokeFunctionUrl"],
            resource_arns=[self.target.function_arn],
            conditions={"StringEquals": {"lambda:FunctionUrlAuthType": "AWS_IAM"}},
        ).combine(
            # Lambda asks for both (https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html).
            iam.Grant.add_to_principal(
                grantee=grantee,
                actions=["lambda:InvokeFunction"],
                resource_arns=[self.target.function_arn],
                conditions={"Bool": {"lambda:InvokedViaFunctionUrl": "true"}},
            )
        )


def _check_writes(model: ModelArtifact) -> None:
    """Refuse a model that does not write a text token by token."""
    tokens = next((spec for spec in model.outputs if spec.name == "tokens"), None)
    writes = tokens is not None and tokens.dtype == "int64"
    driver = None if model.path is None else model.path / DRIVER_FILE
    if writes and driver is not None:
        said = json.loads(driver.read_text("utf-8")) if driver.is_file() else {}
        writes = said.get("kind") == "search" and said["width"] == 1
    if not writes:
        raise PropError(
            f"model must write one token after the other, got {model.manifest.name}; give its recipe the driver "
            "Greedy or Sampling, and the output tokens"
        )


def _check_network(vpc: ec2.IVpc | None, capacity: CapacityStrategy | None) -> None:
    """Refuse a VPC, where the responses of function URLs are not streamed.

    See https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html.
    """
    inside = f"'{vpc.node.path}'" if vpc is not None else str(capacity) if capacity and capacity.has_network else None
    if inside is not None:
        raise PropError(
            f"{'vpc' if vpc is not None else 'capacity'} must not put the function into a VPC, where Lambda streams no "
            f"response of a function URL, got {inside}; leave it out"
        )


def _files(code: StageCode, tokenizer: Path) -> dict[str, Path | bytes]:
    """Return the files of preprocessing, and the tokenizer that makes text.

    Raises
    ------
    PropError
        Preprocessing has another tokenizer.
    """
    files = code.files("PREPROCESS")
    other = files.get(TOKENIZER_FILE, tokenizer)
    if isinstance(other, bytes) or other.resolve() != tokenizer.resolve():
        raise PropError(f"tokenizer must be that of preprocess, '{other!s}', got '{tokenizer}'; pass the same file")
    return {**files, TOKENIZER_FILE: tokenizer}
