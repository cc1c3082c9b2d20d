from __future__ import annotations

import ast
import json
import subprocess
import sys
import tarfile
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_constructs_is_pypis_package_from_the_repository_root() -> None:
    # aws-cdk-lib stands on it; an __init__.py in our import root would shadow it.
    assert not (ROOT / "constructs" / "__init__.py").exists()
    program = "import constructs; print(constructs.__file__, constructs.Construct.__module__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    file, module = done.stdout.split()
    assert not Path(file).is_relative_to(ROOT / "constructs")
    assert Path(file).parts[-2:] == ("constructs", "__init__.py")
    assert module == "constructs"


@pytest.mark.parametrize("settings", ["cdk.json", "constructs/cdk_inference/init/templates/cdk.json"])
def test_cdk_json_has_all_recommended_feature_flags(settings: str) -> None:
    (library,) = (path for path in files("aws_cdk._jsii").iterdir() if path.name.startswith("aws-cdk-lib@"))
    with library.open("rb") as file, tarfile.open(fileobj=file) as archive:
        member = archive.extractfile("package/recommended-feature-flags.json")
        assert member is not None
        recommended = json.load(member)
    context = json.loads((ROOT / settings).read_text())["context"]
    missing = {flag: value for flag, value in recommended.items() if context.get(flag) != value}
    assert missing == {}, f"put these under context in {settings}: {json.dumps(missing, indent=2)}"
    assert sorted(context.keys() - recommended.keys()) == [], "aws-cdk-lib knows these no more: remove them"


def test_mypy_reads_each_service_of_the_cdk_that_we_use() -> None:
    """A module that it skips has the type Any, so that no mistake in its use shows."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    (read,) = (set(each["module"]) for each in settings["overrides"] if each.get("follow_imports") == "silent")
    services = {path.stem for path in files("aws_cdk").iterdir()}
    used = set()
    for folder in ("constructs/cdk_inference", "lambda_src", "verify"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(text)) if "aws_cdk" in (text := path.read_text("utf-8")) else ():
                if isinstance(node, ast.ImportFrom) and node.module == "aws_cdk":
                    used |= {f"aws_cdk.{alias.name}" for alias in node.names if alias.name in services}
                elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("aws_cdk."):
                    used.add(str(node.module))
    assert len(used) > 20
    assert {name for name in used - read if not name.startswith("aws_cdk.interfaces.")} == set()


def test_base_package_imports_without_any_extra() -> None:
    """The synth process must not pay for torch, numpy or the emulator."""
    program = """
import sys
import cdk_inference
for name in cdk_inference.__all__:
    getattr(cdk_inference, name)
print(sorted({"torch", "numpy", "onnx", "onnxruntime", "boto3", "ministack", "typer", "rich"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_test_module_imports_what_takes_a_second() -> None:
    """Each process of `make test` imports all of them; import it in the functions that use it."""
    slow = {"torch", "safetensors.torch", "scipy.stats", "kubernetes_validate"}
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text("utf-8")
        if any(name.partition(".")[0] in text for name in slow):
            nodes = ast.parse(text).body
            names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            for node in nodes:
                if isinstance(node, ast.ImportFrom):
                    names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
            found[path.name] = sorted(name for name in slow if any(f"{one}.".startswith(f"{name}.") for one in names))
    assert {name: imported for name, imported in found.items() if imported} == {}
