"""Measure the GPU function's engine against plain PyTorch in float16, and against the CPU function's engine.

    python benchmarks/gpu.py model_assets/efficientnet_lite/lite2.py --output gpu.json

For a machine with a GPU, with the packages of lambda_src/requirements/inference-gpu*.txt and PyTorch for CUDA. Each
contender has its own process. They run one after the other, round by round, so that all meet the same machine. Ratios
are medians over the rounds. With `--device cpu` all of it runs without a GPU, to try the script out: such figures say
nothing about one.

Everything goes from and to numpy arrays in the host's memory, as in a function: copies to the card are part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Arrays = dict[str, np.ndarray[Any, Any]]
    Run = Callable[[Arrays], list[np.ndarray[Any, Any]]]

ROOT = Path(__file__).parents[1]
CONTENDERS = {
    "gpu": "the GPU function's engine, float16, in this process",
    "gpu_shared": "the same in the process that has the model for all of an environment",
    "torch": "PyTorch, eager, float16",
    "cpu": "the CPU function's engine, one vCPU",
}


class Contender:
    """A process that runs the model one way."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        began = time.perf_counter()
        self.name = name
        self._process = subprocess.Popen(  # noqa: S603 - this script
            [sys.executable, __file__, "--contender", name, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.where = self._read()
        self.first_seconds = time.perf_counter() - began

    def ask(self, **question: Any) -> Any:  # noqa: ANN401 - what each question is answered with
        """Send a question, and return the answer."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> Any:  # noqa: ANN401
        assert self._process.stdout is not None  # noqa: S101
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print, too
                return json.loads(line)["answer"]
        raise SystemExit(f"{self.name} died with {self._process.wait()}")


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="of a model that comes from PyTorch")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 512], help="sizes of a batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one contender in one round, at least")
    parser.add_argument("--starts", type=int, default=3, help="fresh processes of each, for the time to a first result")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--cache", type=Path, help="of built models")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as work:
        settings = prepare(arguments, Path(work))
        figures = measure(settings, arguments.batches, arguments.rounds, arguments.seconds, arguments.starts)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    sys.stdout.write(table(figures))


def prepare(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build both artifacts, and lay them out as functions have them."""
    from cdk_inference.model import Float16, build_model, load_recipe  # noqa: PLC0415 - the contenders need none
    from cdk_inference.model.building.evaluation.data import first_batch  # noqa: PLC0415

    recipe, folder = load_recipe(arguments.recipe)
    example = first_batch(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)
    np.savez(work / "example.npz", **example)
    artifacts = {
        "gpu": build_model(arguments.recipe, cache=arguments.cache, precision=Float16()),
        "cpu": build_model(arguments.recipe, cache=arguments.cache),
    }
    for name, built in artifacts.items():
        shutil.copytree(built.path, work / name / "model")
    return {
        "device": arguments.device,
        "recipe": str(arguments.recipe.absolute()),
        "cache": str(arguments.cache) if arguments.cache else None,
        "roots": {name: str(work / name) for name in artifacts},
        "versions": {name: built.version for name, built in artifacts.items()},
        "precisions": {name: built.manifest.precision for name, built in artifacts.items()},
        "example": str(work / "example.npz"),
    }


def measure(settings: dict[str, Any], batches: list[int], rounds: int, seconds: float, fresh: int) -> dict[str, Any]:
    """Return all figures."""
    starts: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(fresh - 1):
        for name in CONTENDERS:
            contender = Contender(name, settings)
            starts[name].append(contender.first_seconds)
            contender.stop()
    contenders = {name: Contender(name, settings) for name in CONTENDERS}
    for name, contender in contenders.items():
        starts[name].append(contender.first_seconds)
    sizes = {}
    for batch in batches:
        rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name, contender in contenders.items():
                rates[name].append(contender.ask(batch=batch, seconds=seconds))
        sizes[batch] = {
            "items_per_second": {name: rounded(statistics.median(found)) for name, found in rates.items()},
            "spread": {name: rounded(max(found) / min(found)) for name, found in rates.items()},
            "ratios": {
                f"gpu/{other}": rounded(statistics.median(map(divide, rates["gpu"], rates[other])))
                for other in CONTENDERS
                if other != "gpu"
            },
        }
    memory = {name: contender.ask(memory=True) for name, contender in contenders.items()}
    similarity = {name: contender.ask(outputs=16) for name, contender in contenders.items()}
    where = {name: contender.where for name, contender in contenders.items()}
    for contender in contenders.values():
        contender.stop()
    first = {name: statistics.median(found) for name, found in starts.items()}
    return {
        "device": settings["device"],
        "machine": {"cpu": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "gpu": gpu_name()},
        "recipe": Path(settings["recipe"]).name,
        "precisions": settings["precisions"],
        "where": where,
        "batches": sizes,
        "first_result_seconds": {name: rounded(value) for name, value in first.items()},
        "first_result_ratios": {
            f"gpu/{name}": rounded(first["gpu"] / value) for name, value in first.items() if name != "gpu"
        },
        "memory_megabytes": memory,
        "cosine_to_torch": {
            name: rounded(cosine(found, similarity["torch"])) for name, found in similarity.items() if name != "torch"
        },
        "contenders": CONTENDERS,
    }


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    names = list(CONTENDERS)
    ratios = [f"gpu/{name}" for name in names if name != "gpu"]
    rows = [["batch", *(f"{name}/s" for name in names), *ratios]]
    for batch, found in figures["batches"].items():
        rates, gains = found["items_per_second"], found["ratios"]
        rows.append([str(batch), *(f"{rates[n]:g}" for n in names), *(f"{gains[r]:g}" for r in ratios)])
    first, memory = figures["first_result_seconds"], figures["memory_megabytes"]
    rows += [
        [
            "first result, s",
            *(f"{first[n]:g}" for n in names),
            *(f"{figures['first_result_ratios'][r]:g}" for r in ratios),
        ],
        ["memory, MB", *(f"{memory[n]['host']:g}" for n in names)],
        ["of the GPU, MB", *(f"{memory[n]['gpu']:g}" if memory[n]["gpu"] is not None else "-" for n in names)],
    ]
    width = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width[column]) for column, cell in enumerate(row)) for row in rows]
    note = "" if figures["device"] == "cuda" else "WITHOUT A GPU: these figures only show that the script works\n"
    return note + "\n".join(lines) + "\n"


def contend(name: str, settings: dict[str, Any]) -> None:
    """Be a contender: load the model, answer questions until there are none."""
    run, where = open_torch(settings) if name == "torch" else open_engine(name, settings)
    run(arrays(settings, 1))
    tell(where)
    for line in sys.stdin:
        question = json.loads(line)
        if "batch" in question:
            tell(rate(run, arrays(settings, question["batch"]), question["seconds"]))
        elif "outputs" in question:
            tell(run(arrays(settings, question["outputs"]))[0].astype(float).reshape(-1).tolist())
        else:
            tell({"host": host_megabytes(), "gpu": gpu_megabytes()})


def open_engine(name: str, settings: dict[str, Any]) -> tuple[Run, str]:
    """Open the engine of a function, in the environment that the construct gives it."""
    sys.path.insert(0, str(ROOT / "lambda_src"))
    kind = "cpu" if name == "cpu" else "gpu"
    os.environ["LAMBDA_TASK_ROOT"] = settings["roots"][kind]
    os.environ["MODEL_VERSION"] = settings["versions"][kind]
    if kind == "cpu":
        os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] = "1769"
    elif settings["device"] == "cuda":
        os.environ["ACCELERATOR"] = "cuda"
    if name == "gpu_shared":
        os.environ["GPU_CONCURRENCY"] = "1"
    # Imported where it is known what runs: the engines must not pay for each other.
    from inference_runtime.handlers.open_engine import open_engine as open_function  # noqa: PLC0415
    from inference_runtime.tensors.tensor import arrays_of, tensors_of  # noqa: PLC0415

    engine = open_function()
    if kind == "gpu" and settings["device"] == "cuda" and engine.inference != "gpu":
        raise SystemExit("there is no GPU, or no CUDA for ONNX Runtime: see the log above, or try --device cpu")
    return lambda inputs: list(arrays_of(engine.infer(tensors_of(inputs))).values()), engine.inference


def open_torch(settings: dict[str, Any]) -> tuple[Run, str]:
    """Open the original, as one would without a library: float16 weights, and what asks for float32 gets float16."""
    import torch  # noqa: PLC0415 - the engines must not pay for it

    from cdk_inference.common.cache import cache_root  # noqa: PLC0415
    from cdk_inference.model import load_recipe  # noqa: PLC0415
    from cdk_inference.model.building.importers.sources import load  # noqa: PLC0415

    recipe, folder = load_recipe(settings["recipe"])
    loaded = load(recipe, recipe.source, folder, Path(settings["cache"] or cache_root()))
    torch.use_deterministic_algorithms(mode=False)  # of the build's
    torch.set_num_threads(os.cpu_count() or 1)
    device = settings["device"]
    module = loaded._module.to(device)  # type: ignore[union-attr]
    if device == "cuda":
        module = module.half()

    def run(inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        tensors = [torch.from_numpy(inputs[spec.name]).to(device) for spec in recipe.inputs]
        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=device == "cuda"):
            outputs = module(*tensors)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [output.cpu().numpy() for output in outputs]

    return run, "gpu" if device == "cuda" else "cpu"


def arrays(settings: dict[str, Any], batch: int) -> Arrays:
    """Return inputs for so many items: those of the recipe's evaluation, again and again."""
    with np.load(settings["example"]) as example:
        return {name: example[name][np.arange(batch) % len(example[name])] for name in example.files}


def rate(run: Run, inputs: Arrays, seconds: float) -> float:
    """Return items a second, after a run that is not counted."""
    run(inputs)
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds or not count:
        run(inputs)
        count += 1
    return count * len(next(iter(inputs.values()))) / passed


def gpu_name() -> str | None:
    """Return the GPU's name, if there is one."""
    found = nvidia_smi("--query-gpu=name")
    return found[0] if found else None


def family() -> set[int]:
    """Return this process and those that it started, such as the one that has the model."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {os.getpid(), *map(int, children)}


def host_megabytes() -> float:
    """Return the most memory that the processes had."""
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in family())
    return rounded(sum(int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) for text in texts) * 1024 / 1e6)


def gpu_megabytes() -> float | None:
    """Return the GPU's memory that the processes have, if the driver tells."""
    rows = (line.split(", ") for line in nvidia_smi("--query-compute-apps=pid,used_memory"))
    members = family()
    found = [float(used) * 1.048576 for pid, used in rows if pid.isdigit() and int(pid) in members and used.isdigit()]
    return rounded(sum(found)) if found else None


def nvidia_smi(query: str) -> list[str]:
    """Ask the driver's tool; without one, there is no answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    arguments = [command, query, "--format=csv,noheader,nounits"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)  # noqa: S603 - the driver's
    return done.stdout.splitlines() if done.returncode == 0 else []


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine similarity."""
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def divide(one: float, other: float) -> float:
    """Return a ratio."""
    return one / other


def rounded(value: float) -> float:
    """Return four digits."""
    return float(f"{value:.4g}")


def tell(answer: object) -> None:
    """Answer the process that started this one."""
    sys.stdout.write("\n" + json.dumps({"answer": answer}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contender"]:
        contend(sys.argv[2], json.loads(sys.argv[3]))
    else:
        main()
