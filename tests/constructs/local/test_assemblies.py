"""An app may be a cloud assembly, as for the CDK CLI: then nothing is synthesized."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import LocalError, aws
from cdk_inference.local.cdk import given_assembly
from cdk_inference.local.cloud import Cloud, _asset_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def assembly(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    (made / "manifest.json").write_text("{}")
    return made


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    """An embedded AWS that nobody calls."""
    aws.use_key("http://127.0.0.1:1", aws.Key())
    return Cloud("http://127.0.0.1:1", tmp_path / "cloud")


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("settings", [True, False])
def test_an_assembly_is_taken_as_it_is(
    cloud: Cloud, assembly: Path, tmp_path: Path, *, absolute: bool, settings: bool
) -> None:
    app = str(assembly) if absolute else "made"
    if settings:
        (tmp_path / "cdk.json").write_text(json.dumps({"app": app}))
    assert cloud.synth(tmp_path, app=None if settings else app) == assembly.resolve()
    assert [path.name for path in assembly.iterdir()] == ["manifest.json"]


def test_context_for_an_assembly_fails(cloud: Cloud, assembly: Path) -> None:
    message = r"^context must be left out for a cloud assembly, got stage, other; synthesize it with that$"
    with pytest.raises(LocalError, match=message):
        cloud.synth(app=str(assembly), context={"stage": "test", "other": "1"})


@pytest.mark.parametrize("app", ["python3 app.py", f"{sys.executable} -c '{'pass;' * 2000}'", ".", "\0"])
def test_a_command_is_no_assembly(tmp_path: Path, app: str) -> None:
    assert given_assembly(tmp_path, app) is None


@pytest.mark.parametrize("settings", [None, "{", "[]", "{}", '{"app": 3}', '{"app": ["made"]}', '{"app": null}'])
def test_settings_without_an_app_name_no_assembly(assembly: Path, settings: str | None) -> None:
    if settings is not None:
        (assembly.parent / "cdk.json").write_text(settings)
    assert given_assembly(assembly.parent) is None


def test_only_what_an_assembly_ships_is_counted_and_once(assembly: Path) -> None:
    inner = assembly / "assembly-Stage"
    inner.mkdir()
    for name, size in (("asset.a.zip", 1), ("asset.b.zip", 20), ("asset.of-before.zip", 300)):
        (assembly / name).write_bytes(b"1" * size)
    for folder, above in ((assembly, ""), (inner, "../")):
        sources = [{"path": f"{above}asset.a.zip"}, {"path": "Stack.template.json"}, {"executable": ["make"]}]
        sources += [{"path": "../asset.b.zip"}] if above else []
        files = {str(number): {"source": source} for number, source in enumerate(sources)}
        (folder / "Stack.assets.json").write_text(json.dumps({"files": files}))
        (folder / "Stack.template.json").write_text("{}")
    assert _asset_bytes(assembly) == 21
