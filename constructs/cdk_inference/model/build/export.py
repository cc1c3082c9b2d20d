"""PyTorch to ONNX. The only file that touches torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cdk_inference.errors import ModelBuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from cdk_inference.model.build.data import Batch
    from cdk_inference.model.recipe import ModelRecipe

OPSET = 18  # the lowest that the exporter writes without converting: the widest choice of runtimes


def create_module(factory: Callable[[], Any], reference: str) -> torch.nn.Module:
    """Call the factory the same way each time: one thread, one seed, evaluation mode."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    module = factory()
    if not isinstance(module, torch.nn.Module):
        raise ModelBuildError(f"factory '{reference}' returned {type(module).__name__}, must return a torch.nn.Module")
    return module.eval().requires_grad_(requires_grad=False)


def run_module(module: torch.nn.Module, recipe: ModelRecipe, batch: Batch) -> list[np.ndarray[Any, Any]]:
    """Return the module's outputs for one batch."""
    with torch.inference_mode():
        result = module(*(torch.from_numpy(np.array(batch[s.name])) for s in recipe.inputs))
    outputs: Sequence[Any] = result if isinstance(result, tuple | list) else (result,)
    if len(outputs) != len(recipe.outputs) or not all(isinstance(o, torch.Tensor) for o in outputs):
        kinds = ", ".join(type(o).__name__ for o in outputs)
        declared = ", ".join(s.name for s in recipe.outputs)
        raise ModelBuildError(f"factory '{recipe.factory}': the module returned ({kinds}), declared are ({declared})")
    return [o.numpy() for o in outputs]


def export(module: torch.nn.Module, recipe: ModelRecipe, batch: Batch) -> onnx.ModelProto:
    """Trace the module with symbolic sizes as declared.

    Parameters
    ----------
    batch
        An example; sizes of symbolic axes are taken from it but not kept.
    """
    symbols = {d: torch.export.Dim(d) for s in recipe.inputs for d in s.shape if isinstance(d, str)}
    shapes = tuple({i: symbols[d] for i, d in enumerate(s.shape) if isinstance(d, str)} for s in recipe.inputs)
    # Twice, as tracing takes a batch of one for a constant.
    example = tuple(
        torch.from_numpy(np.concatenate([batch[s.name]] * (2 if isinstance(s.shape[0], str) else 1)))
        for s in recipe.inputs
    )
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=[s.name for s in recipe.inputs],
        output_names=[s.name for s in recipe.outputs],
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise ModelBuildError("the exporter returned nothing")
    return program.model_proto
