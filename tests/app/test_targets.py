"""The reference app for AWS and for the embedded AWS, and what a synth of it does to the machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.subjects.synth import handwritten, resources

from cdk_inference import LambdaPlatform
from cdk_inference.common.cache import cache_root
from cdk_inference.local import Cloud, aws
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("synth")]

STACK = "PhotoLabels"
# Every way in which the local template may differ from the one for AWS.
ALLOWED = {
    "architecture": r"Resources\.\w+Function\w+\.Properties\.Architectures\.0",
    "runtime": r"Resources\.\w+Function\w+\.Properties\.Runtime",
    "quality": r"Outputs\.ModelQuality[0-9A-F]{8}\.Value",  # the model is built for the function's architecture
    "costs": r"Metadata\.cdk-inference:costs\.PhotoLabels/Photos",  # they depend on the model's latency there
    "code": r"Resources\.\w+Function\w+\.(Properties\.Code\.S3Key|Metadata\.aws:asset:path)",
}
ACKNOWLEDGED = r"Resources\.\w+Function\w+\.Metadata\.cdk_nag\.rules_to_suppress\.\d+\.(id|reason)"
# The model is built for the function's architecture. This much is the same for each.
SAME_MODEL = ("name", "inputs", "outputs", "architecture", "precision", "opset", "baseline_size_bytes", "provenance")
# A version's logical id ends in a hash of its function's code and configuration, the three above among it.
VERSION = re.compile(r"(CurrentVersion[0-9A-F]{8})[0-9a-f]{32}")
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "PIL", "boto3", "cdk_inference.model.building")
SYNTH = f"""
import runpy, sys
runpy.run_path("app.py")
print([name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def for_aws(
    cdk: Callable[..., subprocess.CompletedProcess[str]],
    repository: Path,
    built: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The reference app's cloud assembly for AWS. Afterwards, the caches hold all that it needs."""
    built("efficientnet_lite/lite0.py", LambdaPlatform().architecture)
    output = tmp_path_factory.mktemp("aws") / "cdk.out"
    synth = cdk(repository, "synth", "--quiet", "--output", str(output), CDK_VALIDATION="true")
    assert synth.returncode == 0, synth.stderr
    reports = json.loads((output / "validation-report.json").read_text())["pluginReports"]
    found = {report["pluginName"]: report["violations"] for report in reports}
    assert found.get("CloudFormation Validate", []) == []
    return output


def template(assembly: Path) -> dict[str, Any]:
    return json.loads((assembly / f"{STACK}.template.json").read_text())


def without_versions(synthesized: dict[str, Any]) -> dict[str, Any]:
    """Return a template without what a version's id ends in, and without what tells its model from another."""
    text, count = VERSION.subn(r"\1", json.dumps(synthesized))
    assert count == 3 * 2  # of three functions: the version, and the alias that names it
    outputs = synthesized["Outputs"].items()
    (model,) = {output["Value"] for name, output in outputs if re.match("ModelVersion[0-9A-F]{8}", name)}
    stripped: dict[str, Any] = json.loads(text.replace(model, "<model version>"))
    for resource in stripped["Resources"].values():
        ours = resource.get("Metadata", {}).get("cdk-inference", {})
        if "model" in ours:
            ours["model"] = {name: ours["model"][name] for name in SAME_MODEL}
    return stripped


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value of a template with its path."""
    if isinstance(value, dict | list) and value:
        for name, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(member, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


def test_the_local_template_differs_in_what_is_allowed_only(
    for_aws: Path, built: Callable[..., None], repository: Path, tmp_path: Path
) -> None:
    built("efficientnet_lite/lite0.py", LambdaPlatform.host().architecture)
    endpoint = "http://127.0.0.1:1"  # a synth talks to nobody
    aws.use_key(endpoint, aws.Key())
    local = template(Cloud(endpoint, tmp_path).synth(repository))
    ours, theirs = (dict(leaves(without_versions(each))) for each in (local, template(for_aws)))
    # The rule of cdk-nag about the newest Python, which the host may not have, is acknowledged for each function.
    added = ours.keys() - theirs.keys()
    assert theirs.keys() <= ours.keys()
    assert [path for path in added if not re.fullmatch(ACKNOWLEDGED, path)] == []
    assert {ours[path] for path in added if path.endswith(".id")} == {"AwsSolutions-L1"}
    ours = {path: ours[path] for path in theirs}
    different = [path for path in ours if ours[path] != theirs[path]]
    unexpected = [path for path in different if not any(re.fullmatch(allowed, path) for allowed in ALLOWED.values())]
    assert unexpected == []
    functions = [path for path in different if re.fullmatch(ALLOWED["code"], path) and path.endswith("S3Key")]
    assert len(functions) == 3
    assert {theirs[path] for path in theirs if re.fullmatch(ALLOWED["architecture"], path)} == {"arm64"}
    assert {theirs[path] for path in theirs if re.fullmatch(ALLOWED["runtime"], path)} == {"python3.14"}


def test_another_folder_umask_and_cache_give_the_same_assets(
    for_aws: Path, cdk: Callable[..., subprocess.CompletedProcess[str]], repository: Path, tmp_path: Path
) -> None:
    copy, cache = tmp_path / "some where" / "else", tmp_path / "cache"
    copy.mkdir(parents=True)
    for name in ("app.py", "cdk.json"):
        shutil.copy(repository / name, copy)
    shutil.copytree(repository / "model_assets", copy / "model_assets")
    for path in copy.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    # Building it is tested with the model; what others build right now is hidden.
    shutil.copytree(cache_root() / "models", cache / "models", ignore=shutil.ignore_patterns(".*"))
    output = tmp_path / "cdk.out"
    variables = {"CDK_INFERENCE_CACHE": str(cache), "TZ": "Pacific/Apia"}
    synth = cdk(copy, "synth", "--quiet", "--output", str(output), umask=0o077, **variables)
    assert synth.returncode == 0, synth.stderr
    assert synth.stderr.count("bundling ") == 3
    assert template(output) == template(for_aws)
    assert archives(output) == archives(for_aws)
    assert len(archives(for_aws)) == 3


def archives(assembly: Path) -> dict[str, str]:
    """Return the hashes of the functions' archives, by the hash that CDK knows them by."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in assembly.glob("asset.*.zip")}


def test_a_warm_synth_builds_nothing_and_imports_nothing_heavy(
    for_aws: Path, activated: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    context = json.loads((repository / "cdk.json").read_text())["context"]
    synth = subprocess.run(
        [sys.executable, "-c", SYNTH],
        cwd=repository,
        env=activated | {"CDK_OUTDIR": str(tmp_path), "CDK_CONTEXT_JSON": json.dumps(context)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert synth.stdout == "[]\n"
    # Builds and bundles report there. So does the CDK, on machines without the Python of the functions.
    no_bytecode = r"WARNING every cold start compiles .*'Annotation::cdk-inference:bytecode'\n\n.*report\.json\n"
    assert re.sub(no_bytecode, "", synth.stderr, flags=re.DOTALL) == ""
    assert archives(tmp_path) == archives(for_aws)


def test_listing_stacks_builds_nothing(
    cdk: Callable[..., subprocess.CompletedProcess[str]], repository: Path, tmp_path: Path
) -> None:
    listed = cdk(repository, "ls", "--output", str(tmp_path / "cdk.out"), CDK_INFERENCE_CACHE=str(tmp_path / "cache"))
    assert (listed.returncode, listed.stdout) == (0, f"{STACK}\n")
    assert "build" not in listed.stderr
    assert "bundling" not in listed.stderr
    assert not (tmp_path / "cache" / "models").exists()


def test_the_handwritten_app_of_the_benchmarks_has_the_same_resources(for_aws: Path, tmp_path: Path) -> None:
    theirs, _ = handwritten(for_aws, tmp_path)
    assert len(resources(theirs)) == len(resources(for_aws))
