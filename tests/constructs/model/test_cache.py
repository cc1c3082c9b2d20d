from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference.common.cache import cache_root, hash_folder, make_cache
from cdk_inference.model import load_recipe
from cdk_inference.model.project import open_project
from cdk_inference.model.records import fingerprint as fingerprint_module

NAMES = st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3})?\.py", fullmatch=True)


def test_cache_root_is_the_one_that_was_chosen(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("CDK_INFERENCE_CACHE")
    assert cache_root().name == "cdk-inference"


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@given(first=st.dictionaries(NAMES, st.binary(max_size=4)), second=st.dictionaries(NAMES, st.binary(max_size=4)))
def test_hash_is_the_same_if_and_only_if_names_and_bytes_are(tmp_path_factory, first, second) -> None:
    one, two = (write(tmp_path_factory.mktemp("files"), files) for files in (first, second))
    assert (hash_folder(one) == hash_folder(two)) == (first == second)


def test_hash_ignores_place_time_mode_and_bytecode(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"a.py": b"1", "sub/b.jpg": b"2"})
    two = tmp_path / "elsewhere" / "two"
    shutil.copytree(one, two)
    os.utime(two / "a.py", (0, 0))
    (two / "a.py").chmod(0o600)
    write(two, {"__pycache__/a.pyc": b"3", "sub/__pycache__/b.pyc": b"4", ".DS_Store": b"5"})
    assert hash_folder(one) == hash_folder(two)


def test_hash_sees_hidden_files_and_what_is_linked(tmp_path: Path) -> None:
    far = write(tmp_path / "far", {"weights.bin": b"1", "deeper/more.bin": b"1"})
    folder = write(tmp_path / "recipe", {"factory.py": b"", ".data/images.bin": b"1"})
    (folder / "weights").symlink_to(far)
    (folder / "single.bin").symlink_to(far / "weights.bin")
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)  # follows the links
    seen = {hash_folder(folder)}
    assert seen == {hash_folder(copied)}
    for name in ("far/weights.bin", "far/deeper/more.bin", "recipe/.data/images.bin"):
        write(tmp_path, {name: b"2"})
        seen.add(hash_folder(folder))
    assert len(seen) == 4


def test_what_tools_write_beside_an_app_does_not_matter(tmp_path: Path, monkeypatch) -> None:
    folder = write(tmp_path / "app", {"app.py": b"", "recipe.py": b"", "pyproject.toml": b""})
    before = hash_folder(folder)
    output = {"manifest.json": b"{}", "tree.json": b"{}", "asset.1/index.py": b""}
    write(folder / "cdk.out", output | {"cdk.out": b"{}"})
    write(folder / "other output", output | {"cdk.out": b"{}"})
    write(folder / "unfinished", output)  # the CLI tells where, the mark comes last
    monkeypatch.setenv("CDK_OUTDIR", str(folder / "unfinished"))
    write(folder / "env", {"pyvenv.cfg": b"", "lib/a.py": b""})
    write(folder, {"node_modules/a.js": b"", "dist/app-1.0.whl": b"", ".git/HEAD": b"", ".venv/pyvenv.cfg": b""})
    write(folder, {".ipynb_checkpoints/a.ipynb": b"", ".pytest_cache/b": b""})
    assert hash_folder(folder) == before


def test_data_that_is_named_like_an_output_counts(tmp_path: Path) -> None:
    folder = write(tmp_path / "recipe", {"factory.py": b"", "data/dist/a.bin": b"1", "weights/manifest.json": b"1"})
    seen = {hash_folder(folder)}
    for name in ("data/dist/a.bin", "weights/manifest.json"):
        write(folder, {name: b"2"})
        seen.add(hash_folder(folder))
    assert len(seen) == 3


def test_links_that_lead_nowhere_or_back_do_not_matter(tmp_path: Path) -> None:
    folder = write(tmp_path / "recipe", {"factory.py": b"", "sub/a.py": b""})
    before = hash_folder(folder)
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (folder / "broken").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")  # reading it would wait for ever
    assert hash_folder(folder) == before


def test_key_covers_python_versions_and_the_code_that_builds(make_recipe, tmp_path: Path, monkeypatch) -> None:
    project = open_project(make_recipe(), cache=tmp_path)
    key = project.key(None)
    assert replace(project, tools=project.tools | {"cdk-inference": "9.0"}).key(None) == key
    assert replace(project, tools=project.tools | {"numpy": "2.1"}).key(None) != key

    code = tmp_path / "model"
    shutil.copytree(Path(fingerprint_module.__file__).parents[1], code)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint_module, "__file__", str(code / "records" / "fingerprint.py"))
        assert project.key(None) == key
        for outside in ("cascade.py", "card/page.py", "records/manifest.py"):
            with (code / outside).open("a") as file:
                file.write("# changed\n")
        assert project.key(None) == key
        with (code / "building" / "evaluation" / "metrics.py").open("a") as file:
            file.write("# changed\n")
        assert project.key(None) != key

    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "99", "0"))
    assert project.key(None) != key


def fingerprint(file: Path) -> str:
    return open_project(file, cache=file.parent / "cache").fingerprint


def test_what_a_recipe_says_counts_and_how_it_is_written_does_not(make_recipe) -> None:
    file = make_recipe()
    before = fingerprint(file)
    file.write_text("# a comment\n" + file.read_text())
    (file.parent / "tiny.lock.json").write_text("{}")
    assert fingerprint(file) == before
    file.write_text(file.read_text().replace("max_drop=0.1", "max_drop=0.2"))
    assert fingerprint(file) != before


def test_recipe_is_the_same_as_a_file_and_as_an_object(make_recipe) -> None:
    file = make_recipe()
    recipe, folder = load_recipe(file)
    assert open_project(recipe, folder=folder).fingerprint == open_project(file).fingerprint


def test_what_lies_about_does_not_count(make_recipe) -> None:
    """Another recipe, its lock, locks that are being written, files of editors, and all else that no function reads."""
    file = make_recipe()
    before = fingerprint(file)
    names = ("other.py", "other.lock.json", ".other.lock.json.partial", ".recipe.py.swp", "recipe.py~")
    write(file.parent, dict.fromkeys(names, b"from cdk_inference.model import ModelRecipe\nRECIPE = ModelRecipe()\n"))
    others = ("NOTES.md", "README", "LICENSE.txt", ".gitignore", "cdk.json", "train.py", "tests/test_app.py", "app.py")
    others += (".github/workflows/review.yml",)
    write(file.parent, dict.fromkeys(others, b"import data, factory\n"))
    assert fingerprint(file) == before
    write(file.parent, {"numbers.json": b"1"})
    assert fingerprint(file) != before


MORE = {"more.py"}
ALL = {"more.py", "nets/__init__.py", "nets/more.py"}
READS = {
    "an import": ("import more", MORE),
    "an import in a function": ("def f():\n    from more import x", MORE),
    "an import by way of another file": ("import between", MORE),
    "a computed import": ("import importlib\ndef f(name):\n    importlib.import_module(name)", ALL),
    "a module of a package": ("from nets.more import x", {"nets/__init__.py", "nets/more.py"}),
    "a package": ("import nets", {"nets/__init__.py"}),
    "a name": ("open('NOTES.md')", {"NOTES.md"}),
    "a pattern": ("from pathlib import Path\nPath().glob('*.md')", {"NOTES.md"}),
    "what cannot be parsed": ("def", ALL | {"NOTES.md"}),
}


@pytest.mark.parametrize(("code", "expected"), READS.values(), ids=READS)
def test_what_a_function_may_read_counts(make_recipe, code: str, expected: set[str]) -> None:
    file = make_recipe()
    data = file.parent / "data.py"
    data.write_text(data.read_text() + code)
    files = dict.fromkeys((*sorted(ALL), "NOTES.md"), b"# 1\n")
    write(file.parent, files | {"between.py": b"import more\n"})
    before, seen = fingerprint(file), set()
    for name, text in files.items():
        write(file.parent, {name: b"# 2\n"})
        if fingerprint(file) != before:
            seen.add(name)
        write(file.parent, {name: text})
    assert seen >= expected


@pytest.mark.parametrize(
    ("imported", "counts"),
    [
        ("", False),
        ("NAME = 'circle.png'", True),
        ("def f(name):\n    return open(f'{name}.png')", True),
        ("from pathlib import Path\ndef f():\n    return Path().iterdir()", True),
        ("import importlib\ndef f(name):\n    importlib.import_module(name)", True),
    ],
    ids=["nothing", "its name", "its suffix", "any file", "any code"],
)
def test_a_sample_that_a_script_writes_counts_only_if_the_build_may_read_it(
    make_recipe, imported: str, counts: bool
) -> None:
    file = make_recipe()
    data = file.parent / "data.py"
    script = 'if __name__ == "__main__":\n    import sys\n    open(f"{sys.argv[1]}.png", "wb").write(b"1")\n'
    data.write_text(f"{data.read_text()}\n{imported}\n{script}")
    before = fingerprint(file)
    write(file.parent, {"circle.png": b"1"})
    assert (fingerprint(file) != before) is counts


def test_lock_lists_the_files_of_a_large_folder_as_one(make_recipe) -> None:
    file = make_recipe()
    write(file.parent, {f"photos/{i}.png": b"1" for i in range(40)} | {"few/a.png": b"1"})
    before = open_project(file).basis
    assert {"data.py", "factory.py", "few/a.png", "photos/ (40 files)"} <= before.keys()
    assert len([name for name in before if not name.startswith("recipe field ")]) == 4
    write(file.parent, {"photos/7.png": b"2"})
    after = open_project(file).basis
    assert {name for name in before if before[name] != after[name]} == {"photos/ (40 files)"}


def test_cache_in_the_folder_of_the_recipe_does_not_count(make_recipe) -> None:
    file = make_recipe()
    before = fingerprint(file)
    make_cache(file.parent / "my cache")
    write(file.parent, {"my cache/models/a.onnx": b"1"})
    assert fingerprint(file) == before


def test_word_that_is_the_name_of_a_recipe_file_by_chance_makes_it_no_code(make_recipe) -> None:
    file = make_recipe()
    write(file.parent, {"more.py": b"# of the recipe\ndef recipe():\n    recipe = 1\n"})
    before = fingerprint(file)
    file.write_text("# a comment\n" + file.read_text())
    assert fingerprint(file) == before


@pytest.mark.parametrize("change", ["factory in it", "imported", "read"])
def test_recipe_file_that_the_build_runs_counts_as_a_file(make_recipe, change: str) -> None:
    file = make_recipe()
    text = {
        "factory in it": (file, file.read_text().replace("factory.py:build", "recipe.py:build")),
        "imported": (file.parent / "more.py", "from recipe import RECIPE"),
        "read": (file.parent / "sub" / "more.py", "open('recipe.py')"),
    }[change]
    if change != "factory in it":
        data = file.parent / "data.py"
        data.write_text(data.read_text() + "import more\n")
    text[0].parent.mkdir(exist_ok=True)
    text[0].write_text(text[1])
    before = fingerprint(file)
    file.write_text("# a comment\n" + file.read_text())
    assert fingerprint(file) != before


@pytest.mark.parametrize("kind", ["editable", "folder", "repository", "index"])
def test_key_covers_the_code_of_packages_that_are_not_from_an_index(
    make_recipe, tmp_path: Path, monkeypatch, kind: str
) -> None:
    """As installers record it: https://packaging.python.org/en/latest/specifications/direct-url/."""
    file = make_recipe(recipe=('origin="random numbers"),', 'origin="random numbers"), packages=("mine",),'))
    source = write(tmp_path / "my source", {"mine.py": b"A = 1"})
    commit = {"vcs": "git", "commit_id": "1" * 40}
    origin = {
        "editable": {"url": source.as_uri(), "dir_info": {"editable": True}},
        "folder": {"url": source.as_uri(), "dir_info": {}},
        "repository": {"url": "https://example.com/mine.git", "vcs_info": commit},
    }
    files = {"METADATA": b"Name: mine\nVersion: 1.0\n", "RECORD": b"mine.py,sha256=1,5\n"}
    info = write(tmp_path / "site" / "mine-1.0.dist-info", files)
    monkeypatch.syspath_prepend(info.parent)

    def key() -> str:
        if kind in origin:
            write(info, {"direct_url.json": json.dumps(origin[kind]).encode()})
        return open_project(file, cache=tmp_path).fingerprint

    before = key()
    assert key() == before
    if kind == "editable":
        write(source, {"mine.py": b"A = 2"})
    elif kind == "repository":
        commit["commit_id"] = "2" * 40
    else:
        write(info, {"RECORD": b"mine.py,sha256=2,5\n"})
    assert (key() == before) == (kind == "index")  # its version tells everything
