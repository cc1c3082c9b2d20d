"""The function that signs URLs for uploads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aws_cdk import Duration

from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.common import acknowledgments
from cdk_inference.common.props.sizes import bytes_text
from cdk_inference.errors import PropError
from cdk_inference.stages.base import StageFunction
from cdk_inference.stages.preprocess import DEFAULT_MAX_OBJECT_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aws_cdk import Size
    from constructs import Construct

    from cdk_inference.stages.base import FunctionOptions
    from cdk_inference.triggers.base import IS3Trigger


def upload_function(
    scope: Construct,
    *,
    trigger: IS3Trigger,
    content_types: Mapping[str, str],
    max_object_size: Size | None,
    variables: Mapping[str, str],
    functions: FunctionOptions,
) -> StageFunction:
    """Create the function, which may put objects where the trigger looks for them.

    Parameters
    ----------
    scope
        The parent of the function.
    trigger
        The trigger.
    content_types
        The ends of keys by media type.
    max_object_size
        The largest object. Default: 64 MiB.
    variables
        Further variables of the function.
    functions
        Common props of functions.

    Raises
    ------
    PropError
        A media type is missing, or an end of keys cannot be one.
    """
    if not content_types:
        raise PropError("content_types must name a media type, got none; pass such as {'image/jpeg': '.jpg'}")
    for kind, suffix in content_types.items():
        if suffix and not (suffix.startswith(".") and suffix[1:].isalnum() and suffix.isascii()):
            raise PropError(f"content_types must have ends of keys such as '.jpg', got '{suffix}' for '{kind}'")
    most = DEFAULT_MAX_OBJECT_BYTES if max_object_size is None else bytes_text("max_object_size", max_object_size)
    function = StageFunction(
        scope,
        "Sign",
        package=ZipPackage(
            handler="inference_runtime.handlers.upload.handler",
            runtime_requirements="sagemaker",  # nothing but botocore either
        ),
        environment={
            "UPLOAD_BUCKET": trigger.bucket.bucket_name,
            "UPLOAD_PREFIX": trigger.prefix,
            "UPLOAD_TYPES": json.dumps(dict(content_types)),
            "MAX_OBJECT_BYTES": most,
            **variables,
        },
        description=f"signs URLs for uploads to {trigger.node.path}",
        memory_size=256,
        timeout=Duration.seconds(10),
        **functions,
    )
    trigger.grant_put(function)
    acknowledgments.objects_under(function.role, trigger.bucket, f"{trigger.prefix}*")
    return function
