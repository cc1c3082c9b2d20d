"""Runs a pipeline's stages and its model on one object, in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cdk_inference.errors import PropError
from cdk_inference.testing.explaining import AnswerExplainer
from cdk_inference.testing.model import LocalModel
from cdk_inference.testing.objects import DEFAULT_TIMEOUT, StoredObject
from cdk_inference.testing.postprocessing import postprocess, reject
from cdk_inference.testing.preprocessing import DEFAULT_MAX_OBJECT_BYTES, kept_names, preprocess
from cdk_inference.testing.stage import load
from inference_runtime.stages.builtin.outputs import outputs_postprocessor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from cdk_inference.client import Result
    from cdk_inference.explanations.explain import Explain
    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.stages.postprocess import Postprocess
    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.testing.model import ModelSource
    from cdk_inference.testing.preprocessing import Preprocessed
    from inference_runtime.stages.item import Item
    from inference_runtime.tensors.tensor import Array


@dataclass(frozen=True)
class PipelineRun:
    """The run of a pipeline on one object.

    Attributes
    ----------
    result
        Its row, with the explanation of the answer if the pipeline makes one.
    preprocessed
        The outcome of its preprocessing.
    outputs
        The model's outputs by name, without the batch axis; empty if preprocessing rejected the object.
    """

    result: Result
    preprocessed: Preprocessed
    outputs: dict[str, Array]


class InProcessPipeline:
    """A pipeline's stages and its model, on the CPU of this machine, without AWS.

    It runs one route on one object at a time. There is no trigger, no batch, no workflow and no cascade. See
    `LocalCloud` for a whole deployed pipeline.

    Parameters
    ----------
    model
        As that of `run_preprocess`. It is loaded when it runs first.
    preprocess, postprocess
        As those of `run_preprocess` and `run_postprocess`. By default, postprocessing stores the outputs as they are.
    keep, max_object_bytes, timeout
        As those of `run_preprocess`. Each stage has all the time.
    explain
        When and how answers are explained, as that of your pipeline. It needs a `ModelArtifact` and a `Preprocess`. The
        first explanation measures how faithful they are, as each synth does, unless the cache has that. Heat maps are
        files on this machine. Default: never.

    Attributes
    ----------
    model
        The model.

    Raises
    ------
    PropError
        A stage does not fit the model, or there is no such model.
    StageFailedError
        A function cannot be loaded.
    """

    def __init__(
        self,
        *,
        model: ModelSource,
        preprocess: Preprocess | Callable[[bytes, Item], object] | str | Path,
        postprocess: Postprocess | Callable[[Mapping[str, Array], Item], object] | str | Path | None = None,
        keep: Sequence[str] = (),
        max_object_bytes: int = DEFAULT_MAX_OBJECT_BYTES,
        timeout: float = DEFAULT_TIMEOUT,
        explain: Explain | None = None,
    ) -> None:
        self.model = LocalModel.of(model)
        self._explainer = None if explain is None else self._explaining(explain, model, preprocess)
        needs: Sequence[str] = getattr(postprocess, "needs", ())
        if hasattr(preprocess, "keeping"):
            preprocess = preprocess.keeping(needs)
        elif missing := [name for name in needs if name not in keep]:
            raise PropError(f"keep must name '{missing[0]}', which postprocess needs, got {list(keep)}")
        self._before = load(preprocess, self.model.inputs)
        after = outputs_postprocessor() if postprocess is None else self.model.fitted(postprocess)
        self._after = load(after, self.model.outputs)
        self._keep = kept_names(self._before, keep)
        self._max_object_bytes = max_object_bytes
        self._timeout = timeout

    @classmethod
    def of(cls, pipeline: OperatedPipeline, route: str | None = None) -> InProcessPipeline:
        """Return the stages and the model of a pipeline in your app.

        Parameters
        ----------
        pipeline
            An `InferencePipeline` or a `DirectPipeline`.
        route
            The name of the route. Default: the only one.

        Raises
        ------
        PropError
            The route does not exist, or is one of several.
        ModelBuildError
            The model of a stack that CDK does not bundle cannot be built.
        """
        routes = pipeline.described_routes
        if route is None and len(routes) == 1:
            (route,) = routes
        if route is None or route not in routes:
            raise PropError(f"route must be {' or '.join(map(repr, routes))}, got {route!r}")
        found, most = routes[route], pipeline.max_object_size
        return cls(
            model=found.model,
            preprocess=found.preprocess,
            postprocess=found.postprocess,
            max_object_bytes=DEFAULT_MAX_OBJECT_BYTES if most is None else int(most.to_bytes()),
            timeout=float(pipeline.stage_timeout.to_seconds()),
            explain=found.explain,
        )

    def run(
        self, data: bytes | Path, *, key: str | None = None, bucket: str = "inbox", explain: bool = False
    ) -> PipelineRun:
        """Score one object.

        Parameters
        ----------
        data
            The object's bytes, or the path of a file.
        key
            The object's key. Default: the name of the file, or ``object``.
        bucket
            The name of its bucket.
        explain
            Whether its uploader asks for an explanation, as the metadata ``explain: true`` do in AWS. It says nothing
            where answers are not explained on request.

        Raises
        ------
        Exception
            Whatever a stage raises, but `RejectItem`. In AWS the object becomes a dead letter.
        StageFailedError
            A stage takes too long, or returns what the model cannot take.
        ModelBuildError
            The explanations are not more faithful than random ones.
        """
        stored = StoredObject(data, key=key, bucket=bucket)
        before = preprocess(
            self._before,
            stored,
            model=self.model,
            keep=self._keep,
            max_object_bytes=self._max_object_bytes,
            timeout=self._timeout,
        )
        version, timeout = self.model.version, self._timeout
        if before.reason is not None:
            result = reject(self._after, before.reason, before.item, model_version=version, timeout=timeout)
            return PipelineRun(result, before, {})
        outputs = self.model.run(before.inputs, timeout=timeout)
        why = (
            None
            if self._explainer is None
            else self._explainer.explained(before.inputs, outputs, asked=explain, seconds=timeout)
        )
        result = postprocess(self._after, outputs, before.item, model_version=version, timeout=timeout, explanation=why)
        return PipelineRun(result, before, outputs)

    def _explaining(self, explain: Explain, model: Any, preprocess: Any) -> AnswerExplainer:  # noqa: ANN401 - as given
        if not hasattr(model, "open_project"):
            raise PropError(f"model must be a ModelArtifact with explain, got {model!r:.100}; pass that of your app")
        if not hasattr(preprocess, "bind"):
            raise PropError(f"preprocess must be a Preprocess with explain, got {preprocess!r:.100}")
        return AnswerExplainer(explain, model, self.model, preprocess)
