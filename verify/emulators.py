"""Other CPUs than this machine's, emulated by QEMU in user mode: a program runs on it as on the machine itself.

Version 11 at least: 7.2 shows x86's ``/proc/cpuinfo`` to programs for arm64, on which ONNX Runtime crashes.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from verify.debian import Package, UnavailableError, unpacked

MINIMUM = 11
"""Oldest major version of QEMU that emulates well enough."""

WITHOUT_VNNI = "Haswell-noTSX"
"""An x86 CPU with AVX2, and without VNNI and AVX-512: the least that Lambda promises."""

GRAVITON2 = "neoverse-n1"
"""The core of AWS Graviton2, the oldest CPU of Lambda's arm64."""

PYTHON = "3.14"
"""Version of the functions' Python by default."""

_QEMU = Package("qemu-user", at_least=f"1:{MINIMUM}")


def x86_64(cpu: str = WITHOUT_VNNI) -> list[str]:
    """Return the command that runs one of this machine's own programs on another x86 CPU.

    Parameters
    ----------
    cpu
        Its name, as ``qemu-x86_64 -cpu help`` lists it. AVX-512 is not emulated.

    Returns
    -------
    list of str
        What to put before the program, such as ``["/…/qemu-x86_64", "-cpu", "Haswell-noTSX"]``.

    Raises
    ------
    UnavailableError
        If this machine cannot run it.
    """
    if platform.machine() != "x86_64":
        raise UnavailableError(f"programs of this machine are for {platform.machine()}, not for x86_64")
    return [_qemu("qemu-x86_64"), "-cpu", cpu]


def aarch64(cpu: str = GRAVITON2) -> list[str]:
    """Return the command that runs a program for arm64; ``-L`` tells it where the libraries are.

    Parameters
    ----------
    cpu
        Its name, as ``qemu-aarch64 -cpu help`` lists it.

    Returns
    -------
    list of str
        What to put before the program.

    Raises
    ------
    UnavailableError
        If this machine cannot run it.
    """
    return [_qemu("qemu-aarch64"), "-cpu", cpu]


def python(cpu: str = GRAVITON2) -> list[str]:
    """Return the command that runs CPython 3.14 for arm64, followed by the interpreter's options.

    Parameters
    ----------
    cpu
        As that of `aarch64`.

    Raises
    ------
    UnavailableError
        If this machine cannot run it.
    """
    root = _python_root()
    return [*aarch64(cpu), "-L", str(root), str(root / "usr" / "bin" / f"python{PYTHON}")]


def compiler() -> Path:
    """Return an executable that is CPython 3.14 to its caller, for ``CDK_INFERENCE_COMPILERS``.

    It is Debian's build for this machine: bytecode is the same everywhere, and emulation takes eight times as long.

    Raises
    ------
    UnavailableError
        If this machine cannot run it.
    """
    names = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib")
    root = unpacked(f"python{PYTHON}", [Package(name) for name in names], members=["usr/bin/*", "usr/lib/*"])
    loaders = list(root.glob("usr/lib/*/ld-linux*.so.*"))
    if len(loaders) != 1:
        raise UnavailableError(f"python{PYTHON} of Debian must come with one loader, got {len(loaders)}")
    # It needs a newer C library than this machine's, which its own loader finds.
    program = str(root / "usr" / "bin" / f"python{PYTHON}")
    command = [str(loaders[0]), "--library-path", str(loaders[0].parent), "--argv0", program, program]
    path = root.parent / f"python{PYTHON}"
    text = f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # several processes may be first
            written = Path(folder) / path.name
            written.write_text(text, encoding="utf-8")
            written.chmod(0o755)
            written.replace(path)
    return path


def saturates() -> bool:
    """Tell whether this machine adds 8-bit products in 16 bits: an x86_64 CPU without VNNI."""
    if platform.machine() != "x86_64":
        return False
    flags = Path("/proc/cpuinfo").read_text("utf-8") if sys.platform == "linux" else ""
    return not any(name in flags for name in ("avx_vnni", "avx512_vnni"))


@cache
def _qemu(program: str) -> str:
    """Return the path of an emulator: the system's own, if it is new enough, otherwise Debian's."""
    if sys.platform != "linux":
        raise UnavailableError(f"QEMU emulates single programs on Linux only, and this is {sys.platform}")
    installed = shutil.which(program) or shutil.which(f"{program}-static")
    if installed and _version(installed) >= MINIMUM:
        return installed
    path = unpacked("qemu-user", [_QEMU], members=["usr/bin/qemu-aarch64", "usr/bin/qemu-x86_64"]) / "usr/bin" / program
    if _version(str(path)) < MINIMUM:
        raise UnavailableError(f"{path} does not run on this machine")
    return str(path)


def _version(program: str) -> int:
    """Return the major version of an emulator, 0 if it does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    match = re.match(r"qemu-\w+ version (\d+)\.", done.stdout)
    return int(match[1]) if match else 0


@cache
def _python_root() -> Path:
    names = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6")
    root = unpacked(f"python{PYTHON}", [Package(name) for name in names], architecture="arm64")
    # Debian's packages hold /usr/lib; the links to it belong to the installer of a whole system.
    for name in ("bin", "lib"):
        link = root / name
        if not link.is_symlink():
            link.symlink_to(f"usr/{name}")
    return root
