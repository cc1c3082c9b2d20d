"""Loads the function of a stage: what the runtime's `load_stage` does in a function, from files of this machine."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cdk_inference.errors import PropError
from cdk_inference.model.recipe.tensors import TensorSpec
from cdk_inference.testing.errors import StageFailedError
from cdk_inference.testing.modules import StageModules
from inference_runtime.errors import StageError
from inference_runtime.stages.user_code import load_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cdk_inference.stages.stage_code import StageCode

    Function = Callable[..., object]


UNNAMED = "input"
"""The name of a single array, as long as no model says its name."""


class Described(Protocol):
    """A stage as apps describe it: `Preprocess` or `Postprocess`."""

    @property
    def code(self) -> StageCode:
        """Its code."""

    def bind(self, specs: Sequence[TensorSpec], /) -> StageCode:
        """Check it against the model, and return its code."""


@dataclass(frozen=True)
class Stage:
    """A stage that can be run here.

    Attributes
    ----------
    name
        Its name in messages.
    function
        The function that is called for each object.
    keep
        Names of values that it returns besides the inputs.
    task_root
        The folder that the environment variable ``LAMBDA_TASK_ROOT`` names while it runs.
    modules
        Finds its modules, if they may not be found otherwise.
    """

    name: str
    function: Function
    keep: tuple[str, ...] = ()
    task_root: Path | None = None
    modules: StageModules | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let the function find its files and modules, also those that it imports when it is called."""
        with _surroundings(self.task_root, self.modules):
            yield


def load(stage: Described | Function | str | Path, specs: Sequence[TensorSpec] | None = None) -> Stage:
    """Return a stage that can be run.

    Parameters
    ----------
    stage
        ``path/to/file.py:function``, a function, or what an app gives a pipeline.
    specs
        The model's inputs, or its outputs, that the stage must fit. Default: they are not known.

    Raises
    ------
    PropError
        The file does not exist, or the stage does not fit the model.
    StageFailedError
        The function cannot be imported, with the runtime's message.
    """
    if isinstance(stage, str | Path):
        return _from_file(str(stage))
    if callable(stage):
        return Stage(getattr(stage, "__qualname__", repr(stage)), stage)
    if not hasattr(stage, "code") or not hasattr(stage, "bind"):
        raise PropError(
            f"stage must be 'path/to/file.py:function', a function, or a Preprocess or Postprocess, got {stage!r}"
        )
    return _from_description(stage, specs)


def _from_file(entry: str) -> Stage:
    file, colon, name = entry.rpartition(":")
    path = Path(file)
    if not colon or not name.isidentifier() or path.suffix != ".py" or not path.stem.isidentifier():
        raise PropError(f"stage must be of the form 'path/to/file.py:function', got '{entry}'")
    if not path.is_file():
        raise PropError(f"stage must be in an existing file, got '{path}'; looked in {Path.cwd()}")
    folder = path.absolute().parent
    return _loaded(
        entry,
        {"STAGE_FUNCTION": f"{path.stem}:{name}"},
        root=folder,
        modules=StageModules({child.name: child for child in folder.iterdir()}),
    )


def _from_description(stage: Described, specs: Sequence[TensorSpec] | None) -> Stage:
    code = _code_without_model(stage) if specs is None else stage.bind(specs)
    root = Path(tempfile.mkdtemp(prefix="cdk-inference-stage-"))
    for name, content in code.files().items():
        if isinstance(content, bytes):
            (root / name).write_bytes(content)
        else:
            (root / name).symlink_to(content.absolute())
    sources = {name: path.absolute() for name, path in code.sources.items()}
    try:
        found = _loaded(
            code.function,
            {**code.environment(), **_masks_address(stage)},
            root=root,
            modules=StageModules(sources),
            keep=getattr(stage, "keep", ()),
        )
    except BaseException:
        shutil.rmtree(root)
        raise
    weakref.finalize(found, shutil.rmtree, root, ignore_errors=True)
    return found


def _masks_address(stage: Described) -> dict[str, str]:
    """Return the variable that says where masks go, if the stage makes any: a folder that stays."""
    if not getattr(stage, "makes_masks", False):
        return {}
    return {"MASKS_ADDRESS": Path(tempfile.mkdtemp(prefix="cdk-inference-masks-")).as_uri()}


def _code_without_model(stage: Described) -> StageCode:
    """Return the code of a stage for a model that takes what it makes.

    Raises
    ------
    PropError
        Only the model says what it makes, or what it takes.
    """
    for attribute, name in (("tokens", "Preprocess.text"), ("head", "Postprocess.detection or segmentation")):
        if getattr(stage, attribute, None) is not None:
            raise PropError(f"model must be given for {name}, which depends on the form of its tensors, got None")
    if any(column.kind == "text" or column.gives_nan for column in getattr(stage, "columns", ())):
        raise PropError("model must be given for columns of texts or with NaN, which only some models take, got None")
    if (produces := getattr(stage, "produces", None)) is None:
        return stage.code
    dtype, shape = produces
    return stage.bind((TensorSpec(UNNAMED, dtype, ("batch", *shape)),))


def _loaded(
    name: str, variables: Mapping[str, str], *, root: Path, modules: StageModules, keep: tuple[str, ...] = ()
) -> Stage:
    entry, _, _ = variables["STAGE_FUNCTION"].partition(":")
    modules.forget_others(entry)
    with _surroundings(root, modules), environment(variables):
        try:
            function: Any = load_stage()
        except StageError as error:
            raise StageFailedError(type(error).__name__, str(error)) from error
    return Stage(name, function, keep, root, modules)


@contextmanager
def _surroundings(root: Path | None, modules: StageModules | None) -> Iterator[None]:
    if modules is not None:
        sys.meta_path.insert(0, modules)
    try:
        with environment({} if root is None else {"LAMBDA_TASK_ROOT": str(root)}):
            yield
    finally:
        if modules is not None:
            sys.meta_path.remove(modules)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, by which functions in AWS are configured, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
