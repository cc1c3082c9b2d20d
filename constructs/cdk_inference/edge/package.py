"""The package of a device: the agent, the code and the model of a route, and what the agent must know of them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from aws_cdk import Annotations

from cdk_inference.edge.golden import golden_example
from cdk_inference.errors import PropError
from cdk_inference.routing.packaged import packaged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cdk_inference.common.platform import LambdaPlatform
    from cdk_inference.pipeline.operated import OperatedPipeline
    from cdk_inference.routing.route import Route

DESCRIPTION = "edge.json"
"""The file in the package that describes it to the agent."""

FORMAT = 1
"""The version of that file."""

_REQUIREMENTS = "edge"
_CACHE = "__pycache__"


@dataclass(frozen=True)
class EdgePackage:
    """The content of a component's packages.

    Parameters
    ----------
    pipeline
        The pipeline that scores what a device is unsure of.
    route
        The route that the device runs.
    name
        The name of the component.
    threshold
        The confidence below which a device sends an item; 0 sends none.
    rows
        Variables by which the rows of devices are as those of the pipeline.
    """

    pipeline: OperatedPipeline
    route: Route
    name: str
    threshold: float
    rows: Mapping[str, str]

    def contents(self, platform: LambdaPlatform) -> dict[str, Path | bytes]:
        """Return the files of the package for a platform, by their path in it.

        Parameters
        ----------
        platform
            Python and architecture of the devices.

        Raises
        ------
        PropError
            The stages do not fit the model or each other, or cannot be bundled for the platform. A source must not have
            the name of the description.
        ModelBuildError
            The model cannot be built for the architecture.
        """
        found = packaged(
            self.pipeline,
            self.route,
            platform,
            requirements=_REQUIREMENTS,
            name=f"{self.name} on devices",
            confidence=True,
        )
        example = golden_example(self.route.model, found.built)
        if example is None:
            Annotations.of(self.pipeline).add_warning_v2(
                "cdk-inference:edge-check",
                f"devices of {self.name} only open {found.built.manifest.name} before they use a version, and do not "
                "compare its answer: there is no example next to a recipe, and this machine cannot make one",
            )
        facts = {
            "format": FORMAT,
            "name": self.name,
            "python": platform.python,
            "architecture": platform.architecture,
            "model": {"name": found.built.manifest.name, "version": found.built.version},
            "variables": {**found.variables, **self.rows},
            "threshold": self.threshold or None,
            # Rows of devices have other names than those of objects, and only the device's model answers them.
            "row_version": None,
            "check": example,
        }
        files: dict[str, Path | bytes] = {**found.packages, **found.code, **found.model}
        if DESCRIPTION in files:
            raise PropError(f"sources must have unique names in the package, got '{DESCRIPTION}'; rename it")
        # Not every machine can compile modules for the devices, and all are to make the same package.
        plain = {name: content for name, content in files.items() if _CACHE not in name.split("/")}
        return {**plain, DESCRIPTION: _json(facts)}


def with_version(contents: Mapping[str, Path | bytes], version: str) -> dict[str, Path | bytes]:
    """Return the files of a package that says which version of the component it is."""
    text = contents[DESCRIPTION]
    if not isinstance(text, bytes):
        raise TypeError(f"{DESCRIPTION} must be bytes, got {type(text).__name__}")
    return {**contents, DESCRIPTION: _json({**json.loads(text), "version": version})}


def deflated() -> str:
    """Return a hash that tells libraries apart that compress differently, and so make other zips of the same files."""
    sample = b"".join(number.to_bytes(2, "big") * (number % 7) for number in range(10_000))
    return sha256(zlib.compress(sample, 5)).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
