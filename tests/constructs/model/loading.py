"""Loads the model of a recipe in its own framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdk_inference.model.building.importers import sources

if TYPE_CHECKING:
    from pathlib import Path

    from cdk_inference.model import ModelRecipe
    from cdk_inference.model.building.importers.sources import Loaded


def load(recipe: ModelRecipe, folder: Path, cache: Path) -> Loaded:
    """Return the one model of a recipe."""
    return sources.load(recipe, recipe.source, folder, cache)
