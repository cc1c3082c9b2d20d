"""A model of several graphs in one file: an archive with each graph, and with what runs them together.

So it is bytes, as a model of one graph is, wherever a build compares, runs or hashes models. The same graphs give the
same bytes.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

DRIVER = "driver.json"
"""Says which graphs there are, in their order, and how they run together; see `inference_runtime.engine.drivers`."""

_MAGIC = b"PK\x03\x04"  # an ONNX graph does not begin so: its first field would have number 10, which there is not


def is_packed(model: bytes) -> bool:
    """Tell whether a model has several graphs."""
    return model.startswith(_MAGIC)


def pack(description: Mapping[str, Any], graphs: Mapping[str, bytes]) -> bytes:
    """Return several graphs, each self-contained, as one model.

    Parameters
    ----------
    description
        The content of ``driver.json``.
    graphs
        By name.
    """
    stream = io.BytesIO()
    with ZipFile(stream, "w", ZIP_STORED) as archive:
        archive.writestr(ZipInfo(DRIVER), driver_text(description))
        for name in names(description):
            archive.writestr(ZipInfo(f"{name}.onnx"), graphs[name])
    return stream.getvalue()


def unpack(model: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what `pack` took."""
    with ZipFile(io.BytesIO(model)) as archive:
        description: dict[str, Any] = json.loads(archive.read(DRIVER))
        return description, {name: archive.read(f"{name}.onnx") for name in names(description)}


def driver_text(description: Mapping[str, Any]) -> str:
    """Return the text of ``driver.json``."""
    return json.dumps(description, indent=1) + "\n"


def names(description: Mapping[str, Any]) -> list[str]:
    """Return the names of the graphs, in their order."""
    return [entry["name"] for entry in description["graphs"]]
