"""Errors of the AWS calls that a pipeline makes, by what has to happen next: data, and how Step Functions spells them.

A test compares this table with botocore's models, so that a new error of AWS fails it. Codes that no model lists are
those that the services are known to answer with as well.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(StrEnum):
    """The meaning of an error, which decides what happens next."""

    BUSY = "busy"
    """The service throttles, or is out of order for a moment: the same call succeeds later."""

    NOT_READY = "not ready"
    """Something has to start, to be restored or to grow first, which can take minutes: the same call succeeds later."""

    ITEM = "item"
    """This request cannot succeed, whenever it is made: the object, or what was made of it, is to blame."""

    CONFIGURATION = "configuration"
    """Somebody must repair something. The objects are not to blame, and wait in the queue until then."""

    DONE = "done"
    """The effect of the call has happened already, or nothing waits for it any more."""


_KMS = {
    "DependencyTimeoutException": Kind.BUSY,
    "DisabledException": Kind.CONFIGURATION,
    "DryRunOperationException": Kind.CONFIGURATION,
    "InvalidGrantTokenException": Kind.CONFIGURATION,
    "InvalidKeyUsageException": Kind.CONFIGURATION,
    "KMSInternalException": Kind.BUSY,
    "KMSInvalidStateException": Kind.CONFIGURATION,
    "KeyUnavailableException": Kind.BUSY,
    "NotFoundException": Kind.CONFIGURATION,
}
_S3 = {
    "AccessDenied": Kind.CONFIGURATION,
    "InternalError": Kind.BUSY,
    "NoSuchBucket": Kind.CONFIGURATION,
    "RequestTimeout": Kind.BUSY,
    "ServiceUnavailable": Kind.BUSY,
    "SlowDown": Kind.BUSY,
    **{f"KMS.{code}": kind for code, kind in _KMS.items()},  # of the key that encrypts the object
}
_S3_GONE = {
    "MethodNotAllowed": Kind.ITEM,  # the version is a delete marker
    "NoSuchKey": Kind.ITEM,
    "NoSuchVersion": Kind.ITEM,
}
_DYNAMODB = {
    "AccessDeniedException": Kind.CONFIGURATION,
    "InternalServerError": Kind.BUSY,
    "ProvisionedThroughputExceededException": Kind.BUSY,
    "RequestLimitExceeded": Kind.BUSY,
    "ResourceNotFoundException": Kind.CONFIGURATION,
    "ThrottlingException": Kind.BUSY,
    "ValidationException": Kind.ITEM,
}
_SQS = {
    "AccessDenied": Kind.CONFIGURATION,
    "InvalidAddress": Kind.CONFIGURATION,
    "InvalidMessageContents": Kind.ITEM,
    "InvalidSecurity": Kind.CONFIGURATION,
    "KmsAccessDenied": Kind.CONFIGURATION,
    "KmsDisabled": Kind.CONFIGURATION,
    "KmsInvalidKeyUsage": Kind.CONFIGURATION,
    "KmsInvalidState": Kind.CONFIGURATION,
    "KmsNotFound": Kind.CONFIGURATION,
    "KmsOptInRequired": Kind.CONFIGURATION,
    "KmsThrottled": Kind.BUSY,
    "QueueDoesNotExist": Kind.CONFIGURATION,
    "RequestThrottled": Kind.BUSY,
    "UnsupportedOperation": Kind.CONFIGURATION,
}
_STEP_FUNCTIONS_KMS = {
    "KmsAccessDeniedException": Kind.CONFIGURATION,
    "KmsInvalidStateException": Kind.CONFIGURATION,
    "KmsThrottlingException": Kind.BUSY,
}
_EXECUTION = {
    "AccessDeniedException": Kind.CONFIGURATION,
    "InvalidArn": Kind.CONFIGURATION,
    "InvalidExecutionInput": Kind.ITEM,
    "InvalidName": Kind.CONFIGURATION,
    "StateMachineDeleting": Kind.CONFIGURATION,
    "StateMachineDoesNotExist": Kind.CONFIGURATION,
    "ThrottlingException": Kind.BUSY,
    **_STEP_FUNCTIONS_KMS,
}
_TASK = {
    "InvalidToken": Kind.DONE,
    "TaskDoesNotExist": Kind.DONE,
    "TaskTimedOut": Kind.DONE,
    **_STEP_FUNCTIONS_KMS,
}

ERRORS: Mapping[str, Mapping[str, Kind]] = {
    "lambda:Invoke": {
        "AccessDeniedException": Kind.CONFIGURATION,
        "CodeArtifactUserDeletedException": Kind.CONFIGURATION,
        "CodeArtifactUserFailedException": Kind.CONFIGURATION,
        "CodeArtifactUserPendingException": Kind.NOT_READY,
        "DurableExecutionAlreadyStartedException": Kind.CONFIGURATION,
        "EC2AccessDeniedException": Kind.CONFIGURATION,
        "EC2ThrottledException": Kind.NOT_READY,
        "EC2UnexpectedException": Kind.NOT_READY,
        "EFSIOException": Kind.NOT_READY,
        "EFSMountConnectivityException": Kind.NOT_READY,
        "EFSMountFailureException": Kind.NOT_READY,
        "EFSMountTimeoutException": Kind.NOT_READY,
        "ENILimitReachedException": Kind.NOT_READY,
        "ENINotReadyException": Kind.NOT_READY,
        "InvalidParameterValueException": Kind.CONFIGURATION,
        "InvalidRequestContentException": Kind.ITEM,
        "InvalidRuntimeException": Kind.CONFIGURATION,
        "InvalidSecurityGroupIDException": Kind.CONFIGURATION,
        "InvalidSubnetIDException": Kind.CONFIGURATION,
        "InvalidZipFileException": Kind.CONFIGURATION,
        "KMSAccessDeniedException": Kind.CONFIGURATION,
        "KMSDisabledException": Kind.CONFIGURATION,
        "KMSInvalidStateException": Kind.CONFIGURATION,
        "KMSNotFoundException": Kind.CONFIGURATION,
        "ModeNotSupportedException": Kind.CONFIGURATION,
        "NoPublishedVersionException": Kind.NOT_READY,
        "RecursiveInvocationException": Kind.CONFIGURATION,
        "RequestTooLargeException": Kind.ITEM,
        "ResourceConflictException": Kind.NOT_READY,
        "ResourceNotFoundException": Kind.CONFIGURATION,
        "ResourceNotReadyException": Kind.NOT_READY,
        "S3FilesMountConnectivityException": Kind.NOT_READY,
        "S3FilesMountFailureException": Kind.NOT_READY,
        "S3FilesMountTimeoutException": Kind.NOT_READY,
        "SerializedRequestEntityTooLargeException": Kind.ITEM,
        "ServiceException": Kind.BUSY,
        "ServiceQuotaExceededException": Kind.NOT_READY,
        "SnapStartException": Kind.NOT_READY,
        "SnapStartNotReadyException": Kind.NOT_READY,
        "SnapStartRegenerationFailureException": Kind.NOT_READY,
        "SnapStartTimeoutException": Kind.NOT_READY,
        "SubnetIPAddressLimitReachedException": Kind.NOT_READY,
        "TooManyRequestsException": Kind.BUSY,
        "UnsupportedMediaTypeException": Kind.ITEM,
    },
    "states:StartExecution": {
        **_EXECUTION,
        "ExecutionAlreadyExists": Kind.DONE,
        "ExecutionLimitExceeded": Kind.BUSY,
        "ValidationException": Kind.CONFIGURATION,
    },
    "states:DescribeExecution": {
        "AccessDeniedException": Kind.CONFIGURATION,
        "ExecutionDoesNotExist": Kind.BUSY,  # who asks knows that it exists
        "InvalidArn": Kind.CONFIGURATION,
        "ThrottlingException": Kind.BUSY,
        **_STEP_FUNCTIONS_KMS,
    },
    "states:StartSyncExecution": {**_EXECUTION, "StateMachineTypeNotSupported": Kind.CONFIGURATION},
    "states:SendTaskSuccess": {**_TASK, "InvalidOutput": Kind.ITEM},
    "states:SendTaskFailure": _TASK,
    "sqs:SendMessage": _SQS,
    "sqs:SendMessageBatch": {
        **_SQS,
        "BatchEntryIdsNotDistinct": Kind.ITEM,
        "BatchRequestTooLong": Kind.ITEM,
        "EmptyBatchRequest": Kind.ITEM,
        "InvalidBatchEntryId": Kind.ITEM,
        "TooManyEntriesInBatchRequest": Kind.ITEM,
    },
    "s3:GetObject": {
        **_S3,
        **_S3_GONE,
        "412": Kind.DONE,
        "InvalidObjectState": Kind.ITEM,  # it is archived
        "InvalidRange": Kind.ITEM,  # it is shorter than the part that an item is
        "PreconditionFailed": Kind.DONE,  # it was overwritten, and the overwrite has another event
    },
    "s3:HeadObject": {**_S3, **_S3_GONE, "404": Kind.ITEM},
    "s3:GetObjectTagging": {**_S3, **_S3_GONE},
    "s3:PutObject": {
        **_S3,
        "EncryptionTypeMismatch": Kind.CONFIGURATION,
        "InvalidRequest": Kind.CONFIGURATION,
        "InvalidWriteOffset": Kind.CONFIGURATION,
        "TooManyParts": Kind.CONFIGURATION,
    },
    "s3:CreateMultipartUpload": _S3,
    "s3:UploadPart": {**_S3, "NoSuchUpload": Kind.ITEM},
    "s3:CompleteMultipartUpload": {**_S3, "NoSuchUpload": Kind.ITEM},
    "s3:AbortMultipartUpload": {**_S3, "NoSuchUpload": Kind.DONE},
    "dynamodb:PutItem": {
        **_DYNAMODB,
        "ConditionalCheckFailedException": Kind.DONE,  # the table has this row, or a newer one
        "ItemCollectionSizeLimitExceededException": Kind.ITEM,
        "ReplicatedWriteConflictException": Kind.BUSY,
        "TransactionConflictException": Kind.BUSY,
    },
    "s3:DeleteObjects": _S3,
    "dynamodb:BatchGetItem": _DYNAMODB,
    "dynamodb:GetItem": _DYNAMODB,
    "dynamodb:Query": _DYNAMODB,
    "dynamodb:TransactWriteItems": {
        **_DYNAMODB,
        "IdempotentParameterMismatchException": Kind.CONFIGURATION,  # botocore makes the token anew for each call
        "TransactionCanceledException": Kind.DONE,  # somebody else was first, or is at it
        "TransactionInProgressException": Kind.BUSY,
    },
    "dynamodb:UpdateItem": {
        **_DYNAMODB,
        "ConditionalCheckFailedException": Kind.DONE,  # somebody else was first
        "ItemCollectionSizeLimitExceededException": Kind.ITEM,
        "ReplicatedWriteConflictException": Kind.BUSY,
        "TransactionConflictException": Kind.BUSY,
    },
    "sagemaker:InvokeEndpointAsync": {
        "AccessDeniedException": Kind.CONFIGURATION,
        "InternalFailure": Kind.BUSY,
        "ServiceUnavailable": Kind.BUSY,
        "ThrottlingException": Kind.BUSY,
        "ValidationError": Kind.CONFIGURATION,  # the endpoint is not there, or not yet
    },
    "kms:Decrypt": {
        **_KMS,
        "AccessDeniedException": Kind.CONFIGURATION,
        "IncorrectKeyException": Kind.CONFIGURATION,
        "InvalidCiphertextException": Kind.CONFIGURATION,
        "ThrottlingException": Kind.BUSY,
    },
    "kms:GenerateDataKey": {
        **_KMS,
        "AccessDeniedException": Kind.CONFIGURATION,
        "ThrottlingException": Kind.BUSY,
    },
}
"""By call and code."""

_PREFIXES = {
    "dynamodb:GetItem": "DynamoDB",
    "dynamodb:UpdateItem": "DynamoDB",
    "lambda:Invoke": "Lambda",
    "states:StartExecution": "StepFunctions",
    "states:StartSyncExecution": "Sfn",  # which has no integration but that of the SDK
    "sqs:SendMessage": "SQS",
}
# Step Functions' own names for errors of the SDK that it calls with, which no service's model lists.
_OF_THE_SDK = {
    "dynamodb:GetItem": ("AmazonDynamoDBException", "SdkClientException"),
    "dynamodb:UpdateItem": ("AmazonDynamoDBException", "SdkClientException"),
    "lambda:Invoke": ("AWSLambdaException", "ClientExecutionTimeoutException", "SdkClientException"),
    "states:StartExecution": ("SdkClientException", "SfnException"),
    "states:StartSyncExecution": ("SdkClientException", "SfnException"),
    "sqs:SendMessage": ("AmazonSQSException", "SdkClientException"),
}


def state_errors(call: str, *kinds: Kind) -> tuple[str, ...]:
    """Return the names that Step Functions has for errors of these kinds: ``Lambda.TooManyRequestsException``.

    Every name ends in ``Exception`` there, whatever the service calls the error. Errors that Step Functions names by
    the SDK are `Kind.BUSY`: network errors, and answers with a code that the SDK does not know.

    Parameters
    ----------
    call
        One of those that state machines make, such as ``lambda:Invoke``.
    kinds
        Which errors.
    """
    names = [f"{code.removesuffix('Exception')}Exception" for code, kind in ERRORS[call].items() if kind in kinds]
    if Kind.BUSY in kinds:
        names += _OF_THE_SDK[call]
    return tuple(f"{_PREFIXES[call]}.{name}" for name in sorted(names))
