"""Finds out what a model is, from what the user calls it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.init.errors import InitError

if TYPE_CHECKING:
    from cdk_inference.init.model import InspectedModel

_FORMS = "an .onnx, .pt2 or .joblib file, hf:NAME or timm:NAME"


def inspect(reference: str) -> InspectedModel:
    """Return what is known of a model.

    Parameters
    ----------
    reference
        An ``.onnx``, ``.pt2`` or ``.joblib`` file; ``hf:`` and a model of the Hugging Face Hub or a folder; or
        ``timm:`` and a model of timm.

    Raises
    ------
    InitError
        It is none of these, or the model cannot be used.
    """
    # Each imports what its kind of model needs, which may take seconds.
    kind, colon, name = reference.partition(":")
    if colon and kind == "hf":
        from cdk_inference.init.sources.hub_model import inspect_hub_model  # noqa: PLC0415

        return inspect_hub_model(name)
    if colon and kind == "timm":
        from cdk_inference.init.sources.timm_model import inspect_timm_model  # noqa: PLC0415

        return inspect_timm_model(name)
    path = Path(reference).expanduser()
    if path.suffix not in (".onnx", ".pt2", ".joblib"):
        raise InitError(f"from must be {_FORMS}, got '{reference}'{_hint(path)}")
    if not path.is_file():
        raise InitError(f"from must be an existing file, got '{reference}'; looked in {Path.cwd()}")
    if path.suffix == ".onnx":
        from cdk_inference.init.sources.onnx_graph import inspect_onnx  # noqa: PLC0415

        return inspect_onnx(path)
    if path.suffix == ".pt2":
        from cdk_inference.init.sources.exported_program import inspect_program  # noqa: PLC0415

        return inspect_program(path)
    from cdk_inference.init.sources.estimator import inspect_estimator  # noqa: PLC0415

    return inspect_estimator(path)


def _hint(path: Path) -> str:
    """Say what to do with a file of another kind."""
    if path.suffix in (".pt", ".pth", ".safetensors"):
        return "; weights alone do not say what the model is: write its module, and torch.export.save it as a .pt2 file"
    if path.suffix in (".pkl", ".pickle"):
        return "; save the estimator with joblib.dump(estimator, 'model.joblib')"
    if path.is_dir():
        return f"; for a model of transformers, pass hf:{path}"
    return ""
