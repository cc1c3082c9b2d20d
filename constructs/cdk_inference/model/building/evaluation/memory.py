"""``python -m`` this module with MODEL FOLDER THREADS to print the peak memory of one run, in MB."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np

from cdk_inference.model.building.evaluation.opening import open_file


def main(model: Path, folder: Path, threads: int) -> None:
    """Load the model from its file, as the deployed function does, and run the folder's sample."""
    names = json.loads((folder / "names.json").read_text("utf-8"))
    with np.load(folder / "sample.npz") as arrays:
        sample = {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}
    open_file(model, threads).run(None, sample)
    print(round(_peak_bytes() / 1e6, 1))  # noqa: T201 - the parent reads it


def _peak_bytes() -> int:
    # On Linux, the usage of resources begins with that of the process that started this one.
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
