"""Programs that see no VNNI compute as CPUs without it do, and are otherwise undisturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cpu

ROOT = Path(__file__).parents[2]

# 64 products of 255 and 127 each: sums of two products do not fit into 16 bits.
DOT = """
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
weights = numpy_helper.from_array(np.full((64, 8), 127, np.int8), "w")
graph = helper.make_graph(
    [helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "dot",
    [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 64])],
    [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 8])], [weights],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = ort.InferenceSession(model.SerializeToString())
print(*set(session.run(None, {"x": np.full((1, 64), 255, np.uint8)})[0].flat))
"""
EXACT, SATURATED = 64 * 255 * 127, 32 * (2**15 - 1)
SEEN = """
def seen(_=0):
    from numpy._core._multiarray_umath import __cpu_features__ as features
    return next(name for name in ("AVX512F", "AVX2") if features[name])
"""
ASK = "from benchmarks import cpu; print(cpu.hidden(), *cpu.int8_instructions())"


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """The environment in which programs see no VNNI."""
    try:
        return cpu.without_vnni()
    except cpu.CannotHideError as error:
        pytest.skip(str(error))


def python(code: str, variables: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(
        command, env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, check=False
    )


def output(code: str, variables: dict[str, str]) -> list[str]:
    done = python(code, variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_sums_of_16_bits_saturate_as_without_vnni(variables: dict[str, str]) -> None:
    native = {"amx_int8", "avx512_vnni", "avx_vnni"}.intersection(cpu.int8_instructions())
    assert output(DOT, {}) == [str(EXACT if native else SATURATED)]
    assert output(DOT, variables) == [str(SATURATED)]


def test_a_process_knows_that_vnni_is_hidden(variables: dict[str, str]) -> None:
    assert output(ASK, variables) == ["True avx2" if variables else "False avx2"]
    assert not cpu.hidden()


def test_the_command_runs_any_program(variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "benchmarks.cpu", "--", sys.executable, "-c", ASK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith(" avx2\n"), done.stderr
    done = subprocess.run([*command[:4], "no-such-program"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert done.stderr == "error: no-such-program: No such file or directory\n"


def test_threads_and_every_kind_of_child_see_the_same(variables: dict[str, str], tmp_path: Path) -> None:
    # numpy asks the CPU when it is imported, so the thread must be the first to do that.
    script = tmp_path / "children.py"
    script.write_text(
        "import multiprocessing, os, subprocess, sys, threading\n"
        "from benchmarks import cpu\n"
        f"{SEEN}"
        "if __name__ == '__main__':\n"
        "    thread = threading.Thread(target=lambda: print(seen()))\n"
        "    thread.start(); thread.join()\n"
        "    for method in ('fork', 'spawn', 'forkserver'):\n"
        "        with multiprocessing.get_context(method).Pool(1) as pool: print(*pool.map(seen, [0]))\n"
        f"    code = {SEEN + 'print(seen())'!r}\n"
        "    for own in ({'LANG': 'C'}, {'LD_PRELOAD': ''}, {}):\n"
        "        subprocess.run([sys.executable, '-I', '-c', code], env=own, check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["AVX2"] * 7, done.stderr


def test_faults_end_a_process_as_they_would_have(variables: dict[str, str]) -> None:
    done = python("import ctypes; ctypes.string_at(0)", variables)
    assert (done.returncode, done.stderr) == (-signal.SIGSEGV, "")
    done = python("import ctypes; ctypes.string_at(0)", variables, "-X", "faulthandler")
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr.startswith("Fatal Python error: Segmentation fault")
    done = python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV); print('alive')", variables)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "")


def test_a_program_keeps_its_own_handlers_and_masks(variables: dict[str, str]) -> None:
    code = (
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "signal.signal(signal.SIGSEGV, lambda *_: print('own'))\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
        "import torch; print(torch.backends.cpu.get_cpu_capability())\n"
        "signal.signal(signal.SIGSEGV, signal.SIG_IGN)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
        "print('ignored')\n"
    )
    if not variables:
        pytest.skip("nothing is hidden: this CPU has neither VNNI nor AVX-512")
    assert output(code, variables) == ["own", "AVX2", "ignored"]


@pytest.mark.parametrize(
    ("system", "flags", "message"),
    [
        (("Linux", "aarch64"), {"asimddp"}, "needs Linux on x86_64, got Linux on aarch64; qemu-x86_64 -cpu Haswell"),
        (("Darwin", "x86_64"), set(), "needs Linux on x86_64, got Darwin on x86_64"),
        (("Linux", "x86_64"), {"avx512f", "avx512_vnni"}, "traps CPUID, got one without cpuid_fault"),
    ],
)
def test_fails_where_nothing_can_be_hidden(
    system: tuple[str, str], flags: set[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu.platform, "system", lambda: system[0])
    monkeypatch.setattr(cpu.platform, "machine", lambda: system[1])
    monkeypatch.setattr(cpu, "_flags", lambda: flags)
    with pytest.raises(cpu.CannotHideError, match=message):
        cpu.without_vnni()


def test_fails_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "_flags", lambda: {"avx512f", "cpuid_fault"})
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path))
    monkeypatch.setattr(cpu.shutil, "which", lambda _: None)
    with pytest.raises(cpu.CannotHideError, match="needs a C compiler, found none of cc, gcc and clang"):
        cpu.without_vnni()


def test_nothing_is_hidden_from_a_cpu_that_ends_at_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "_flags", lambda: {"avx2", "fma"})
    assert cpu.without_vnni() == {}
    assert cpu.int8_instructions() == ["avx2"]


def test_a_cache_folder_with_spaces_and_colons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not {"avx512f", "cpuid_fault"} <= cpu._flags():
        pytest.skip("this CPU has nothing to hide, or cannot hide it")
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "my caches: all"))
    assert output(ASK, cpu.without_vnni()) == ["True avx2"]
