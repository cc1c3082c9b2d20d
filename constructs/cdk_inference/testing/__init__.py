"""Runs stages and pipelines in unit tests: on your machine, without AWS, by the code that runs in Lambda.

It needs the extra ``testing``, and `LocalCloud` the extra ``local``. Neither loads AWS CDK. The names are imported on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdk_inference.local.cloud import LocalCloud
    from cdk_inference.testing.errors import StageFailedError
    from cdk_inference.testing.model import LocalModel
    from cdk_inference.testing.pipeline import InProcessPipeline, PipelineRun
    from cdk_inference.testing.postprocessing import run_postprocess
    from cdk_inference.testing.preprocessing import Preprocessed, run_preprocess

_MODULES = {
    "InProcessPipeline": "testing.pipeline",
    "LocalCloud": "local",
    "LocalModel": "testing.model",
    "PipelineRun": "testing.pipeline",
    "Preprocessed": "testing.preprocessing",
    "StageFailedError": "testing.errors",
    "run_postprocess": "testing.postprocessing",
    "run_preprocess": "testing.preprocessing",
}

__all__ = [
    "InProcessPipeline",
    "LocalCloud",
    "LocalModel",
    "PipelineRun",
    "Preprocessed",
    "StageFailedError",
    "run_postprocess",
    "run_preprocess",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"cdk_inference.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or name == "LocalCloud":  # which names its own extra
            raise
        raise ModuleNotFoundError(
            f'running stages needs the "testing" extra: pip install "cdk-inference[testing]" ({error})', name=error.name
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
