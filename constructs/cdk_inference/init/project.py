"""The files of a project, and writing them."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from packaging.version import Version

from cdk_inference.init.assets import review_action, starter
from cdk_inference.init.errors import InitError
from cdk_inference.init.model import InspectedModel
from cdk_inference.init.names import stack_name
from cdk_inference.init.reading import PILLOW, Reading, choose_reading, sample_sizes
from cdk_inference.init.rendering import render
from cdk_inference.init.storing import LABELS, Storing, choose_storing
from cdk_inference.model.recipe.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

Content = str | bytes | Path
"""The content of a file: a text, bytes, or those of another file."""

_DISTRIBUTION = "cdk-inference"
_TEMPLATES = Path(__file__).with_name("templates")
_BATCH = 8  # samples
_SHOWN = 5  # files in a message
_STARTER_FILES = ("data.py", "network.py", "train.py", "weights.safetensors")


@dataclass(frozen=True)
class Project:
    """The files of a project by their paths in it, and what to do with them.

    Parameters
    ----------
    files
        The contents.
    make_sample
        The command that writes the sample.
    sample
        The file to upload.
    todos
        Tasks that are left for a person, a sentence each.
    notes
        Facts that a person should know, a sentence each.
    """

    files: Mapping[str, Content]
    make_sample: str
    sample: str
    todos: tuple[str, ...]
    notes: tuple[str, ...]

    def write(self, folder: Path, *, force: bool) -> None:
        """Write all files; none if one of them exists or cannot be written.

        Parameters
        ----------
        force
            Whether files that exist are replaced. A link is replaced, and not what it points to.

        Raises
        ------
        InitError
            A file exists, or cannot be written.
        """
        targets = {folder / path: content for path, content in self.files.items()}
        # A model that lies in the folder already stays as it is.
        targets = {path: content for path, content in targets.items() if not _is_same(path, content)}
        taken = sorted(str(path.relative_to(folder)) for path in targets if path.exists() or path.is_symlink())
        if taken and not force:
            more = f" and {len(taken) - _SHOWN} more" if len(taken) > _SHOWN else ""
            raise InitError(
                f"folder must not have files that init writes, got {', '.join(taken[:_SHOWN])}{more} in {folder}; "
                "pass another folder, or --force to replace them"
            )
        _check_room(folder, [*targets])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # All are written aside first: from then on only renaming is left.
            with tempfile.TemporaryDirectory(prefix=".init-", dir=folder) as aside:
                written = [(Path(aside) / str(index), path) for index, path in enumerate(targets)]
                for temporary, path in written:
                    _write(temporary, targets[path])
                for temporary, path in written:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    temporary.replace(path)
        except OSError as error:
            where = error.filename2 or error.filename or folder
            raise InitError(f"{where} cannot be written: {error.strerror or error}") from error
        except UnicodeError as error:
            raise InitError(f"project cannot be written: its model has names that are not Unicode, {error}") from error


def starter_project(name: str) -> Project:
    """Return a project with a small network that tells shapes apart. Its weights are trained."""
    model = InspectedModel(
        source='TorchModule(factory="network.py:build", weights="weights.safetensors")',
        imports=("TorchModule",),
        inputs=(TensorSpec("pictures", "uint8", ("batch", 32, 32, 3)),),
        outputs=(TensorSpec("scores", "float32", ("batch", 3)),),
        origin="trained by train.py",
        license="MIT",
        files={each: starter() / each for each in _STARTER_FILES},
    )
    reading = Reading("pictures", "Preprocess.image(size=32, crop=1.0)", "triangle.png", "")
    labels = '["circle", "square", "triangle"]'
    storing = Storing(
        "the label with the highest score",
        f"Postprocess.classification(labels={labels})",
        'metric="top1", floor=0.9',
    )
    described = {
        "data.py": "draws the pictures that the network is trained, calibrated and judged with",
        "network.py": "the network, in PyTorch",
        "train.py": "trains it, in half a minute, and writes its weights",
        "weights.safetensors": "the weights",
    }
    project = _Draft(name, model, reading, storing, described, ("python", "data.py", "triangle"), label="triangle")
    return project.finish("Labels each picture that lands in a bucket.", evaluation_note="")


def project_around(name: str, model: InspectedModel) -> Project:
    """Return a project around a model that the user has."""
    reading, storing = choose_reading(model), choose_storing(model)
    if storing.needs_picture:
        reading = reading.keeping_picture()
    described = {"data.py": f"made-up {reading.kind}, for the build: replace them with yours"}
    draft = _Draft(name, model, reading, storing, described, ("python", "data.py"))
    note = "data.py makes its samples up: give yours, with labels, and a metric that looks at them, such as top1"
    return draft.finish(f"Scores {reading.kind} that land in a bucket.", evaluation_note=note)


@dataclass(frozen=True)
class _Draft:
    name: str
    model: InspectedModel
    reading: Reading
    storing: Storing
    described: Mapping[str, str]
    make_sample: tuple[str, ...]
    label: str = ""

    def finish(self, summary: str, *, evaluation_note: str) -> Project:
        """Render all files."""
        model, reading, storing = self.model, self.reading, self.storing
        first = model.inputs[0].shape[0]
        values = {
            "name": self.name,
            "stack": stack_name(self.name),
            "summary": summary,
            "data_summary": f"Data for the build: {reading.kind}, which are made up.",
            "evaluation_note": evaluation_note,
            "source": model.source,
            "imports": sorted({"Evaluation", "ModelRecipe", "Provenance", "TensorSpec", *model.imports}),
            "inputs": model.inputs,
            "outputs": model.outputs,
            "input_name": model.inputs[0].name,
            "sizes": sample_sizes(model),
            "batch": first if isinstance(first, int) else _BATCH,
            "evaluation": storing.evaluation,
            "license": model.license,
            "origin": model.origin,
            "packages": model.packages,
            "preprocess": reading.preprocess.replace(PILLOW, _pin("pillow")),
            "postprocess": storing.postprocess,
            "sample": reading.sample,
            "sample_file": reading.sample,
            "command": self.make_sample[1:],
            "make_sample": " ".join(self.make_sample),
            "label": self.label,
            "version": _requirement(),
            "requirements": sorted(_pin(each) for each in (*model.packages, *reading.requirements)),
            **reading.values,
            **model.values,
        }
        templates = {
            "app.py": "app.py.j2",
            "recipe.py": "recipe.py.j2",
            "requirements.txt": "requirements.txt.j2",
            "tests/test_pipeline.py": "test_pipeline.py.j2",
            **({"data.py": reading.data} if reading.data else {}),
            **model.templates,
            **reading.templates,
            **storing.templates,
        }
        todos = _todos(model, reading.preprocess, evaluation_note, templates)
        files: dict[str, Content] = {
            **{path: render(template, **values) for path, template in templates.items()},
            ".gitignore": _TEMPLATES / "gitignore",
            "cdk.json": _TEMPLATES / "cdk.json",
            "pyproject.toml": _TEMPLATES / "pyproject.toml",
            ".github/actions/review/action.yml": review_action(),
            ".github/workflows/deploy.yml": _TEMPLATES / "deploy.yml",
            ".github/workflows/review.yml": _TEMPLATES / "review.yml",
        }
        if storing.labels:
            files[LABELS] = "".join(f"{label}\n" for label in storing.labels)
        described = {**_DESCRIBED, **self.described}
        table = [(file, says) for file, says in described.items() if file in files or file in model.files]
        files["README.md"] = render("README.md.j2", **values, table=table, todos=todos, notes=model.notes)
        named = {str(each) for file in model.files for each in (PurePosixPath(file), *PurePosixPath(file).parents)}
        if taken := sorted(named & {*files}):
            raise InitError(f"model must have files with other names than the project's, got {taken[0]}; rename it")
        return Project({**files, **model.files}, " ".join(self.make_sample), reading.sample, todos, model.notes)


_DESCRIBED = {
    "app.py": "the app: a pipeline from a bucket to a table",
    "recipe.py": "the model: its source, its tensors, and how good it must be",
    "factory.py": "makes the network",
    "convert.py": "converts the estimator to ONNX",
    "data.py": "",
    "fields.py": "the names of the features",
    "preprocess.py": "turns an object into the model's input",
    "pixels.py": "the numbers that pictures become",
    "sound.py": "the numbers that sounds become",
    "postprocess.py": "turns the model's outputs into what a row has",
    LABELS: "the names of the classes, one a line",
    "tests/test_pipeline.py": "deploys the app to an embedded AWS, and scores a sample: `python -m pytest`",
}


def _todos(
    model: InspectedModel, preprocess: str, evaluation_note: str, templates: Mapping[str, str]
) -> tuple[str, ...]:
    found = [f"In `recipe.py`: {evaluation_note}."] if evaluation_note else []
    if model.license == "NOASSERTION":
        found.append("In `recipe.py`: name the licence of the weights, and where they come from.")
    if "Preprocess.image(" in preprocess and evaluation_note:
        found.append("In `app.py`: crop and resize pictures with `Preprocess.image` as the model's training did.")
    if "pixels.py" in templates:
        found.append("In `pixels.py`: take the scale of the model's training.")
    if "Preprocess.audio(" in preprocess:
        found.append("In `app.py` and `data.py`: take the sampling rate of the model's training.")
    if "sound.py" in templates:
        found.append("In `sound.py`: take the rate of the model's training.")
    if "postprocess.py" in templates:
        found.append("In `postprocess.py`: return what your users need.")
    return tuple(found)


def _check_room(folder: Path, targets: list[Path]) -> None:
    """Refuse what stands where a folder or a file has to be, and links that lead out of the project."""
    for path in targets:
        for above in path.parents[: len(path.relative_to(folder).parts) - 1]:
            if above.is_symlink() or (above.exists() and not above.is_dir()):
                kind = "link" if above.is_symlink() else "file"
                raise InitError(
                    f"{above.relative_to(folder)} must be a folder, got a {kind} in {folder}; move it, or pass another "
                    "folder"
                )
        if path.is_dir() and not path.is_symlink():
            raise InitError(
                f"{path.relative_to(folder)} must be a file, got a folder in {folder}; move it, or pass another folder"
            )


def _write(path: Path, content: Content) -> None:
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, "utf-8")


def _is_same(path: Path, content: Content) -> bool:
    return isinstance(content, Path) and path.exists() and path.samefile(content)


def _requirement() -> str:
    """Return the versions of this library that a project takes: before 1.0, a minor version may change names."""
    found = Version(version(_DISTRIBUTION))
    return f">={found.major}.{found.minor},<{found.major}.{found.minor + 1}"


def _pin(package: str) -> str:
    """Return a requirement of the installed version, or of any if it is not installed."""
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package
