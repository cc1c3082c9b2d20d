"""Run programs at native speed as if this CPU ended at AVX2: no VNNI, no AVX-512, no AMX.

int8 kernels choose their arithmetic by CPUID. Many x86-64 CPUs in Lambda and elsewhere have no VNNI, so figures and
outputs of a CPU with VNNI do not hold for them. `without_vnni.c` says how CPUID is masked. Clock, caches and memory
remain those of the CPU: ratios carry over to CPUs without VNNI, milliseconds do not.

``python -m benchmarks.cpu -- COMMAND…`` runs any command so.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cdk_inference.common.cache import cache_root, make_cache

SOURCE = Path(__file__).with_name("without_vnni.c")
EMULATOR = "qemu-x86_64 -cpu Haswell emulates such a CPU on any machine, slowly"

_X86 = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2")
_ARM = ("i8mm", "asimddp", "asimd")
_BEYOND_AVX2 = ("avx512f", "avx_vnni", "amx_tile")


class CannotHideError(RuntimeError):
    """Raised where VNNI cannot be hidden; the message says why."""


def without_vnni() -> dict[str, str]:
    """Return the environment variables with which a program sees no VNNI.

    Returns
    -------
    dict
        To be added to the program's environment. It is empty on a CPU that has no VNNI, AVX-512 or AMX, and in a
        process from which they are hidden.

    Raises
    ------
    CannotHideError
        If this is not Linux on x86-64, the CPU or its hypervisor cannot trap CPUID, or a C compiler is missing.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise CannotHideError(
            f"hiding VNNI needs Linux on x86_64, got {platform.system()} on {platform.machine()}; {EMULATOR}"
        )
    if hidden() or not _flags().intersection(_BEYOND_AVX2):
        return {}
    if "cpuid_fault" not in _flags():
        raise CannotHideError(
            "hiding VNNI needs a CPU that traps CPUID, got one without cpuid_fault in /proc/cpuinfo; "
            f"use an Intel CPU and a hypervisor that passes this on, such as KVM; {EMULATOR}"
        )
    preload = f"{_library()}:{os.environ.get('LD_PRELOAD', '')}".rstrip(":")
    tried = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ""],
        env={**os.environ, "LD_PRELOAD": preload},
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode or tried.stderr:
        raise CannotHideError(f"{tried.stderr.strip() or f'the preload ended with {tried.returncode}'}; {EMULATOR}")
    return {"LD_PRELOAD": preload}


def hidden() -> bool:
    """Tell whether VNNI is hidden from this process."""
    return hasattr(ctypes.CDLL(None), "without_vnni_active")


def int8_instructions() -> list[str]:
    """Return the instructions for 8-bit integers that this process may use, the best first."""
    known = ("avx2",) if hidden() else (*_X86, *_ARM)
    return [name for name in known if name in _flags()]


def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return set()
    found = (line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features")))
    return set(next(found, []))


def _library() -> Path:
    source = SOURCE.read_bytes()
    root = cache_root()
    target = root / "benchmarks" / f"without_vnni-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if any(character in str(target) for character in ": "):  # these separate the libraries in LD_PRELOAD
        target = Path(tempfile.mkdtemp(prefix="cdk-inference-")) / target.name
    if not target.is_file():
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise CannotHideError("hiding VNNI needs a C compiler, found none of cc, gcc and clang; install one")
        make_cache(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.partial")
        command = [compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", partial, SOURCE, "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the compiler
        if done.returncode:
            raise CannotHideError(f"{compiler} cannot compile {SOURCE.name}:\n{done.stderr}")
        partial.replace(target)
    return target
