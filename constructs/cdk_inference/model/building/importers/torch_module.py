"""Makes a PyTorch module with the user's factory, and fills it with weights."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.building.evaluation.data import load_function
from cdk_inference.model.building.importers.archive import check_archive, describe_file, shorten
from cdk_inference.model.building.importers.export import TorchModel, blame, check_tensors
from cdk_inference.model.building.importers.tensors import check_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from cdk_inference.model.recipe.sources import TorchModule
    from cdk_inference.model.recipe.tensors import Declared

_READABLE = ("safetensors", "zip", "pickle")
_QUANTIZED = re.compile(r"torch\.(ao\.)?nn\.(intrinsic\.)?quantized\b")
_SHOWN = 5  # keys of a kind in a message
_PICKLED = (
    "which could run any code; save the tensors alone, safetensors.torch.save_file(module.state_dict(), "
    "'weights.safetensors'), and pass them as TorchModule(weights=...)"
)


def load_module(recipe: Declared, source: TorchModule, folder: Path, weights: Path | None) -> TorchModel:
    """Return the recipe's module in evaluation mode, with its weights.

    Raises
    ------
    ModelBuildError
        If the factory fails or returns no module, or the weights are not those of the module.
    """
    if weights is not None:
        check_size(weights.stat().st_size, f"weights {weights.name}")
    module = create_module(folder, source.factory)
    if weights is not None:
        load_weights(module, weights)
    return TorchModel(recipe, folder, module, f"factory '{source.factory}'")


def create_module(folder: Path, reference: str) -> torch.nn.Module:
    """Call the factory the same way each time: one thread, one seed, evaluation mode."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    # The fused encoder layers zero what a padding mask hides; the layers that are exported do not.
    torch.backends.mha.set_fastpath_enabled(False)
    subject = f"factory '{reference}'"
    try:
        factory = load_function(folder, reference, "factory")
        _check_arguments(factory, subject)
        module = factory()
    except ModelBuildError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelBuildError(f"{subject} {_explain(error, folder)}") from error
    if not isinstance(module, torch.nn.Module):
        raise ModelBuildError(f"{subject} must return a torch.nn.Module, got {type(module).__name__}")
    _check_layers(module, subject)
    unset = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    if unset:
        raise ModelBuildError(f"{subject} must return a module with values, got device 'meta' for {_list(unset)}")
    check_tensors(module.state_dict(), f"{subject}: the weights", "return module.float()")
    return module.eval().requires_grad_(requires_grad=False)


def _check_layers(module: torch.nn.Module, subject: str) -> None:
    """Refuse layers that have no float module behind them to export."""
    for name, layer in module.named_modules():
        where = f" (layer '{name}')" if name else ""
        if isinstance(layer, torch.jit.ScriptModule):
            raise ModelBuildError(
                f"{subject} must return a module that torch.export can trace, got a TorchScript module{where}; return "
                "the module that was scripted, or convert it with torch.onnx and pass it as OnnxFile(...)"
            )
        if _QUANTIZED.match(type(layer).__module__):
            raise ModelBuildError(
                f"{subject} must return a float module, got one that torch has quantized"
                f"{where or f' ({type(layer).__name__})'}; return the original, which the build quantizes for the "
                "functions' CPUs"
            )


def _check_arguments(factory: Any, subject: str) -> None:  # noqa: ANN401 - the user's callable
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # callables written in C may not tell
        return
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
    if needed:
        raise ModelBuildError(
            f"{subject} must take no arguments without default values, got {', '.join(needed)}; give them defaults"
        )


def _explain(error: BaseException, folder: Path) -> str:
    where = blame(error, folder)
    if isinstance(error, pickle.UnpicklingError) or "weights_only=True" in str(error):
        return f"must not unpickle a file{where}, {_PICKLED}"
    hint = ""
    if isinstance(error, FileNotFoundError):
        hint = "; paths are relative to where the build runs, use Path(__file__).parent / ..."
    elif isinstance(error, ModuleNotFoundError):
        hint = f"; pip install it and name it in ModelRecipe(packages=...), or put {error.name}.py next to the recipe"
    reason = error.msg if isinstance(error, SyntaxError) else shorten(error)
    return f"must return a torch.nn.Module, got {type(error).__name__}: {reason}{where}{hint}"


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Load a state dict from a file; each tensor of the module must be in it, and nothing else.

    A tensor that the module uses by two names may be in the file by one of them, as safetensors stores it.

    Raises
    ------
    ModelBuildError
        Listing what is missing, unexpected, or of another shape.
    """
    weights = read_weights(path)
    state = module.state_dict(keep_vars=True)
    given = {state[key].data_ptr() for key in weights if key in state}
    missing = [k for k in state if k not in weights and (not state[k].numel() or state[k].data_ptr() not in given)]
    unexpected = [key for key in weights if key not in state]
    reshaped = [
        f"{key} must be {list(tensor.shape)}, got {list(weights[key].shape)}"
        for key, tensor in state.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    problems = [
        f"{kind}: {_list(keys)}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("other shape", reshaped))
        if keys
    ]
    if problems:
        raise ModelBuildError(f"weights {path.name} must be those of the module; {'; '.join(problems)}")
    module.load_state_dict(weights, strict=False)


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """Read a state dict without unpickling.

    Raises
    ------
    ModelBuildError
        If the file is damaged, something else, or would have to be unpickled.
    """
    kind = describe_file(path)
    if kind not in _READABLE and path.suffix != ".safetensors":
        raise ModelBuildError(f"weights {path.name} must be safetensors or a state dict of torch.save, got {kind}")
    try:
        if kind == "safetensors" or path.suffix == ".safetensors":
            weights: Any = load_file(path)
        elif kind == "zip":
            check_archive(path)
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:  # of torch before 1.6
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except ModelBuildError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelBuildError(f"weights {path.name} must not need unpickling, {_PICKLED}") from error
    except Exception as error:
        raise ModelBuildError(
            f"weights {path.name} cannot be read: {shorten(error)}; save or copy them again"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, torch.Tensor) for w in weights.values()):
        found = type(weights).__name__
        if isinstance(weights, dict):
            found = "a dict of " + _list([f"{key} ({type(value).__name__})" for key, value in weights.items()])
        raise ModelBuildError(
            f"weights {path.name} must hold tensors by name, got {found}; save the state_dict() of the module alone"
        )
    return weights


def _list(names: Iterable[object]) -> str:
    shown = [str(name) for name in names]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
