"""The function that one writes without a library: boto3, numpy and ONNX Runtime at the top, the model in the package.

It takes and returns the same events as ours, so that both do the same work: tensors inline in base64, or in S3.
"""

import base64
import os

import boto3
import numpy as np
import onnxruntime as ort

s3 = boto3.client("s3")
options = ort.SessionOptions()
options.intra_op_num_threads = max(1, round(int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]) / 1769))
session = ort.InferenceSession(os.environ["LAMBDA_TASK_ROOT"] + "/model/model.onnx", options)
names = [output.name for output in session.get_outputs()]


def handler(event: dict, context: object) -> dict:  # noqa: ARG001
    """Run the model on each group of tensors."""
    groups = []
    for group in event["groups"]:
        inputs = {name: load(tensor) for name, tensor in group["inputs"].items()}
        outputs = session.run(names, inputs)
        groups.append(
            {
                "indices": group["indices"],
                "outputs": {name: dump(output) for name, output in zip(names, outputs, strict=True)},
            }
        )
    return {"groups": groups}


def load(tensor: dict) -> np.ndarray:
    """Return an array, from the event or from S3."""
    if "data" in tensor:
        data = base64.b64decode(tensor["data"])
    else:
        data = s3.get_object(Bucket=tensor["bucket"], Key=tensor["key"])["Body"].read()
    return np.frombuffer(data, tensor["dtype"]).reshape(tensor["shape"])


def dump(array: np.ndarray) -> dict:
    """Return an array as JSON has it."""
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(array.tobytes()).decode("ascii"),
    }
