"""Loads the user's function of a stage from what the environment names."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference_runtime.environment import json_variable, parsed_json, required
from inference_runtime.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable


def load_stage(prefix: str = "STAGE") -> Callable[..., Any]:
    """Return the function that `STAGE_FUNCTION` names, as `module:attribute`.

    With options the attribute is a factory, called with them as keywords. `STAGE_OPTIONS` is a JSON object, or
    `STAGE_OPTIONS_FILE` is the path of a file with one, relative to `LAMBDA_TASK_ROOT`. A file may be larger than the
    4 KB that Lambda has for the environment.

    Parameters
    ----------
    prefix
        The beginning of the names of the variables, where a function has several stages.

    Raises
    ------
    StageError
        If there is no such function, or its factory refuses the options.
    """
    variable = f"{prefix}_FUNCTION"
    name = required(variable)
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise StageError(f'{variable} is "{name}", expected "module:function"')
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise StageError(
            f'{variable} is "{name}", but importing "{module_name}" failed: {error}; '
            "add what is missing to the stage's code or requirements"
        ) from error
    stage = getattr(module, attribute, None)
    if not callable(stage):
        raise StageError(f'{variable} is "{name}", but "{module_name}" has no function "{attribute}"')
    options = _options(prefix)
    if options is not None:
        try:
            stage = stage(**options)
        except Exception as error:
            raise StageError(f'"{name}" refuses the options {json.dumps(options):.500}: {error}') from error
        if not callable(stage):
            raise StageError(f'"{name}" with options must return a function, got {type(stage).__name__}')
    return stage  # type: ignore[no-any-return]


def _options(prefix: str) -> dict[str, Any] | None:
    inline, file = f"{prefix}_OPTIONS", f"{prefix}_OPTIONS_FILE"
    if file in os.environ:
        path = Path(required("LAMBDA_TASK_ROOT"), required(file))
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise StageError(f"cannot read {file}: {error}") from error
        options: dict[str, Any] = parsed_json(text, f"{file} {path}", dict)
        return options
    return json_variable(inline, dict) if inline in os.environ else None
