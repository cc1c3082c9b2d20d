"""Reading an object of S3 in a fresh process: this library's client against botocore and obstore."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import botocore

from benchmarks.fresh import Fresh
from benchmarks.harness import ROOT, Figure, Sample, alternate, environment, run
from benchmarks.prepare import CONTENDERS, QUIET, content_size, interpreter
from benchmarks.s3_server import s3_server

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.harness import Settings

ROUNDS = 15
BUCKET = "models"
OBJECTS = {"small": 1_000, "large": 5_000_000}
CASES = {
    "small": ("small", "1 kB over TLS", False),
    "large": ("large", "5 MB over TLS", False),
    "cold": ("small", "1 kB over TLS, the client's files not in the page cache", True),
}
"""By name: the object, what is read in words, and whether the client comes from the disk."""

RIVALS = ("botocore==1.43.106", "obstore==0.12.1")
PLATFORMS = {"arm64": "aarch64-manylinux_2_28", "x86_64": "x86_64-manylinux_2_28"}
PYTHON = "3.14"
"""The functions' default, for which the installed sizes are."""

RUNTIME = ROOT / "lambda_src"


def measure(settings: Settings) -> list[Figure]:
    """Return the figures; those of the installed sizes are facts of the first read."""
    settings.work.mkdir(parents=True, exist_ok=True)
    certificates = settings.work / "certificates.pem"
    shutil.copy(os.path.join(os.path.dirname(botocore.__file__), "cacert.pem"), certificates)  # noqa: PTH118, PTH120
    objects = {f"/{BUCKET}/{name}": os.urandom(size) for name, size in OBJECTS.items()}
    folders = {pin.partition("=")[0]: _installed(settings.work, pin) for pin in RIVALS}
    ours = settings.work / "ours"
    shutil.rmtree(ours, ignore_errors=True)
    shutil.copytree(RUNTIME, ours, ignore=shutil.ignore_patterns("__pycache__"))
    run([interpreter(), "-m", "compileall", "-q", ours], env=environment())
    figures = []
    with s3_server(objects, certificates) as variables:
        for name, (key, said, evicted) in CASES.items():
            readers = {
                client: _Reader(client, key, folder, variables, evicted=evicted)
                for client, folder in {"ours": ours, **folders, "none": None}.items()
            }
            found = alternate(readers, settings.rounds(ROUNDS))
            if len({readers[client].answer["checksum"] for client in ("ours", *folders)}) > 1:
                raise SystemExit("the clients read different bytes")
            for rival, pin in zip(folders, RIVALS, strict=True):
                facts = {
                    "interpreter_ms": Sample.of(found["none"]["milliseconds"]).median,
                    "threads": {client: readers[client].answer["threads"] for client in ("ours", rival)},
                    "installed_mb": {
                        "ours": _megabytes(RUNTIME / "inference_runtime" / "s3"),
                        rival: {
                            architecture: _megabytes(_installed(settings.work, pin, platform))
                            for architecture, platform in PLATFORMS.items()
                        },
                    },
                }
                for what, measured, unit in (
                    (f"fresh process to {said}", "milliseconds", "ms"),
                    (f"import of the client, {said}", "import_ms", "ms"),
                    (f"peak memory, {said}", "peak_mb", "MB"),
                ):
                    figures.append(
                        Figure(
                            f"s3_{name}_{measured}/{rival}",
                            what,
                            rival,
                            unit,
                            Sample.of(found["ours"][measured]),
                            Sample.of(found[rival][measured]),
                            "smaller" if unit == "MB" else "faster",
                            facts=facts,
                        )
                    )
    return figures


class _Reader(Fresh):
    """A fresh process that reads one object."""

    def __init__(self, client: str, key: str, folder: Path | None, variables: dict[str, str], *, evicted: bool) -> None:
        self._evicted = folder if evicted else None
        command = [interpreter(), "-I", str(CONTENDERS / "s3_get.py"), client, BUCKET, key]
        super().__init__([*command, *([str(folder)] if folder else [])], {**QUIET, **variables})

    def __call__(self) -> dict[str, float]:
        for file in self._evicted.rglob("*") if self._evicted else ():
            if file.is_file():
                with file.open("rb") as opened:
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return {**super().__call__(), "import_ms": self.answer["import_ms"]}


def _installed(work: Path, pin: str, platform: str | None = None) -> Path:
    """Return the folder with a distribution and what it requires, compiled; for this machine, or for Lambda's."""
    target = work / "s3" / f"{pin}-{platform or 'host'}"
    if not target.is_dir():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = ["uv", "pip", "install", "--quiet", "--target", partial, "--only-binary", ":all:"]
        place = ["--python-platform", platform, "--python-version", PYTHON] if platform else ["--python", interpreter()]
        run([*command, *place, pin], env=environment())
        if platform is None:
            run([interpreter(), "-m", "compileall", "-q", partial], env=environment())
        partial.replace(target)
    return target


def _megabytes(folder: Path) -> float:
    return round(content_size(folder) / 1e6, 2)
