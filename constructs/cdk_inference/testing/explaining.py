"""Explains the answers of a model in this process, by the code and the settings of its functions in AWS."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.testing.stage import environment
from inference_runtime.explanations.explainer import Explainer
from inference_runtime.tensors.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.explanations.explain import Explain, Explanation
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.model.project import Project
    from cdk_inference.model.recipe.tensors import TensorSpec
    from cdk_inference.model.records.manifest import Manifest
    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.testing.model import LocalModel
    from inference_runtime.tensors.tensor import Array

ON_REQUEST = "on_request"


@dataclass(frozen=True)
class _Built:
    """A model as `Explain` takes it, which is built although CDK does not bundle its stack."""

    path: Path
    project: Project | None
    manifest: Manifest
    asset_hash: str

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.outputs


class AnswerExplainer:
    """Explains answers as a pipeline is told to.

    Parameters
    ----------
    explain
        When and how.
    artifact
        The model as the app has it: explanations are measured on the data of its recipe.
    model
        The same model, built.
    preprocess
        The preprocessing, which says what the parts of an item are.
    """

    def __init__(self, explain: Explain, artifact: ModelArtifact, model: LocalModel, preprocess: Preprocess) -> None:
        self._explain = explain
        self._artifact = artifact
        self._model = model
        self._preprocess = preprocess

    @property
    def on_request(self) -> bool:
        """Whether only objects whose uploader asks for it are explained."""
        return self._explain.condition == ON_REQUEST

    def explained(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], *, asked: bool, seconds: float
    ) -> dict[str, Any] | None:
        """Return the explanation of an answer as its row has it; None if it is not to be explained.

        The first one measures how faithful explanations are, unless the cache has that, as each synth does.

        Parameters
        ----------
        inputs, outputs
            Those of one item by name, without the batch axis.
        asked
            Whether the object's uploader asks for it.
        seconds
            How long it may take, at most as long as the settings say.

        Raises
        ------
        PropError
            The model's inputs have no parts that could be hidden, or its outputs nothing that could be explained.
        ModelBuildError
            The explanations are not more faithful than random ones, or the model is of a registry.
        """
        if self.on_request and not asked:
            return None
        explanations = Explainer(self._model.infer, self._explanation.settings).begin()
        explanations.add([0], _batch(inputs), _batch(outputs), {0} if self.on_request else None)
        with environment({"LAMBDA_TASK_ROOT": str(self._root)}):  # has the texts of tokens
            found = explanations.made(seconds, _keep).get(0)
        if found is not None and (address := found.get("heat_map")):
            found["heat_map"] = Path(address.removeprefix("s3:/")).as_uri()
        return found

    @cached_property
    def _explanation(self) -> Explanation:
        built, project = self._artifact.build(), self._artifact.open_project()
        return self._explain.bind(_Built(built.path, project, built.manifest, built.asset_hash), self._preprocess)

    @cached_property
    def _root(self) -> Path:
        root = Path(tempfile.mkdtemp(prefix="cdk-inference-explanations-"))
        weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        for name, content in self._explanation.files.items():
            (root / name).write_bytes(content)
        return root


def _batch(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: Tensor.of(array[None]) for name, array in arrays.items()}


def _keep(picture: bytes) -> dict[str, str]:
    """Keep a heat map in a folder that stays, as masks are, and say where as the runtime does."""
    file = Path(tempfile.mkdtemp(prefix="cdk-inference-heat-map-"), "heat_map.png")
    file.write_bytes(picture)
    *folders, name = file.parts[1:]
    return {"bucket": "/".join(folders), "key": name}
