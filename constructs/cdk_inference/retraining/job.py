"""The work of a retraining's jobs: fetch the labels and train, or fetch the weights, build and judge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cdk_inference.common.cache import hash_file
from cdk_inference.common.terminal import say
from cdk_inference.errors import InferenceError, ModelGateError
from cdk_inference.model.project import build_project, open_project
from cdk_inference.model.recipe.precision import Auto
from cdk_inference.model.recipe.sources import OnnxFile, TorchModule, TorchProgram
from cdk_inference.model.recipe.targets import DEFAULT_ARCHITECTURE
from cdk_inference.model.registry.registry import Registry
from inference_runtime.retraining import layout
from inference_runtime.retraining.reports import PASSED, PLAIN, REFUSED, training_report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cdk_inference.model.project import BuiltModel
    from cdk_inference.model.recipe.recipe import ModelRecipe
    from cdk_inference.model.recipe.targets import Architecture

HELD_OUT = "held_out"
"""The folder next to a recipe with the objects that training has not seen."""

_UNVERSIONED = "null"
_GONE = ("404", "NoSuchKey", "NoSuchVersion", "405", "MethodNotAllowed")  # the last two: a delete marker


class JobError(InferenceError):
    """A job of a retraining cannot do its work."""


@dataclass(frozen=True)
class Run:
    """The run that a job works for, as its workflow says.

    Parameters
    ----------
    id
        The id, which follows from the labels.
    execution
        The name of the workflow's execution.
    bucket
        The bucket of the retraining.
    """

    id: str
    execution: str
    bucket: str

    @classmethod
    def from_environment(cls) -> Run:
        """Return the run that the environment variables of the job name.

        Raises
        ------
        JobError
            One of them is missing.
        """
        given = {}
        for name in ("RETRAINING_RUN", "RETRAINING_EXECUTION", "RETRAINING_BUCKET"):
            given[name] = os.environ.get(name, "")
            if not given[name]:
                raise JobError(f"{name} must be set, got none; the workflow of the retraining starts this job with it")
        return cls(*given.values())


@dataclass(frozen=True)
class Trained:
    """The output of a training job.

    Parameters
    ----------
    weights
        The name of the file.
    sha256
        SHA-256 of its bytes, in hexadecimal digits.
    size
        Bytes of the file.
    labels
        How many labels it was trained with.
    """

    weights: str
    sha256: str
    size: int
    labels: int


@dataclass(frozen=True)
class Verdict:
    """The judgement on new weights.

    Parameters
    ----------
    status
        ``"PASSED"`` or ``"REFUSED"``.
    reason
        Why they are refused; empty otherwise.
    model, version
        The built model in the registry; empty if they are refused.
    """

    status: str
    reason: str
    model: str
    version: str


class Job:
    """A job of a retraining.

    Parameters
    ----------
    run
        The run that it works for.
    s3
        A client of boto3.
    """

    def __init__(self, run: Run, s3: Any) -> None:  # noqa: ANN401 - boto3 makes its classes at run time
        self._run, self._s3 = run, s3

    def train(self, command: Sequence[str], *, weights: str = "weights.safetensors") -> Trained:
        """Fetch labelled objects, run a command that trains with them, and upload the weights that it writes.

        The command finds the path of a file of JSON lines in ``LABELS``: each has the ``path`` of an object, its
        ``label``, its ``key``, and who said so ``by`` and ``at``. It writes the weights to the path in ``WEIGHTS``.

        Parameters
        ----------
        command
            The program and its arguments.
        weights
            The name of the file with the weights. Default: ``"weights.safetensors"``.

        Raises
        ------
        JobError
            The weights cannot have this name, or the command fails or writes nothing.
        """
        if not PLAIN.fullmatch(weights) or weights == layout.REPORT:  # said before the command takes hours
            raise JobError(f"weights must be the name of a file, such as weights.safetensors, got {weights!a:.100}")
        with _folder() as folder:
            labels = self._fetch(folder, held_out=False)
            made = folder / weights
            environment = {**os.environ, "LABELS": str(labels), "WEIGHTS": str(made)}
            code = subprocess.run(list(command), env=environment, check=False).returncode  # noqa: S603 - the user's own
            if code != 0:
                raise JobError(f"the training must end with code 0, got {code} from {command[0]}; its output says why")
            if not made.is_file() or made.stat().st_size == 0:
                raise JobError("the training must write weights to the path in WEIGHTS, got none")
            with labels.open("rb") as lines:
                trained = Trained(weights, hash_file(made), made.stat().st_size, sum(1 for _ in lines))
            self._s3.upload_file(
                Filename=str(made),
                Bucket=self._run.bucket,
                Key=layout.weights(self._run.id, weights),
                ExtraArgs={"ChecksumAlgorithm": "SHA256"},
            )
        self._report(layout.WEIGHTS, {"weights": weights, "sha256": trained.sha256, "size": trained.size})
        return trained

    def build(
        self, recipe: Path, *, architecture: Architecture = DEFAULT_ARCHITECTURE, cache: Path | None = None
    ) -> Verdict:
        """Build a recipe with the weights of the run, and push the model to the registry if it passes its gate.

        The recipe's own files stay as they are: a copy of its folder gets the weights. It gets the held-out objects
        too, listed in ``held_out/labels.jsonl``, by which the evaluation of the recipe may judge.

        Parameters
        ----------
        recipe
            The file that defines the recipe. Its source names one file of weights in its folder.
        architecture
            The architecture of the CPUs that will run the model.
        cache
            Cache root, by default that of the user.

        Raises
        ------
        JobError
            The weights are not those that were trained, or the recipe has no place for them.
        ModelBuildError
            The model cannot be built, for other reasons than its gate.
        """
        report = self._read(layout.report(layout.WEIGHTS, self._run.id))
        trained = training_report(report, run=self._run.id, execution=self._run.execution)
        with _folder() as folder:
            project_folder = folder / "recipe"
            shutil.copytree(recipe.resolve().parent, project_folder)
            project = open_project(project_folder / recipe.name, cache=cache, architecture=architecture)
            held_out = project_folder / HELD_OUT
            held_out.mkdir(exist_ok=True)
            self._fetch(held_out, held_out=True)
            self._download(trained, project_folder / _weights_of(project.recipe))
            # Its files are others now.
            project = open_project(project_folder / recipe.name, cache=cache, architecture=architecture)
            try:
                built = build_project(project)
            except ModelGateError as error:
                verdict = Verdict(REFUSED, str(error), "", "")
            else:
                searched = isinstance(project.recipe.precision, Auto) and project.lock_file.is_file()
                verdict = self._push(built, project.lock_file if searched else None)
        said = {"status": verdict.status, "reason": verdict.reason, "model": verdict.model, "version": verdict.version}
        self._report(layout.BUILDS, {**said, "sha256": trained["sha256"]})
        return verdict

    def _push(self, built: BuiltModel, lock: Path | None) -> Verdict:
        # The same model may have been trained before: another manifest tells of the same bytes then.
        pushed = Registry(f"s3://{self._run.bucket}/{layout.MODELS}").push(built, lock=lock, replace=True)
        return Verdict(PASSED, "", pushed.name, pushed.version)

    def _fetch(self, folder: Path, *, held_out: bool) -> Path:
        """Download the labelled objects that are held out, or the others, and return the file that lists them."""
        objects = folder / "objects"
        objects.mkdir()
        listed = folder / "labels.jsonl"
        with listed.open("w", encoding="utf-8") as out:
            for number, line in enumerate(self._read(layout.label_set(self._run.id)).splitlines()):
                label = json.loads(line)
                if label["held_out"] != held_out:
                    continue
                # A key may be longer than a path, lead out of the folder, or have what no path may have.
                suffix = PurePosixPath(label["key"]).suffix[:20]
                path = objects / f"{number}{suffix if suffix[1:].isalnum() else ''}"
                if not self._download_object(label, path):
                    continue
                kept = {name: label[name] for name in ("key", "label", "by", "at")}
                # The folder of a recipe moves, and its hash must not tell where it is.
                told = path.relative_to(folder) if held_out else path
                out.write(json.dumps({"path": str(told), **kept}) + "\n")
        return listed

    def _download_object(self, label: dict[str, str], path: Path) -> bool:
        """Download a labelled object; one that was deleted since must not keep the others from being trained with."""
        version = label["version_id"]
        which = {} if version == _UNVERSIONED else {"ExtraArgs": {"VersionId": version}}
        try:
            self._s3.download_file(Bucket=label["bucket"], Key=label["key"], Filename=str(path), **which)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _GONE:
                raise
            say(f"left out, since it was deleted: s3://{label['bucket']}/{label['key']}")
            return False
        return True

    def _download(self, trained: dict[str, Any], target: Path) -> None:
        """Put the weights of the run where the recipe has its own.

        Raises
        ------
        JobError
            They are not those that the report names.
        """
        key = layout.weights(self._run.id, trained["weights"])
        target.parent.mkdir(parents=True, exist_ok=True)
        self._s3.download_file(Bucket=self._run.bucket, Key=key, Filename=str(target))
        if target.stat().st_size != trained["size"] or hash_file(target) != trained["sha256"]:
            raise JobError(
                f"s3://{self._run.bucket}/{key} must be the {trained['size']} bytes with the SHA-256 "
                f"{trained['sha256']} that were trained, got {target.stat().st_size} with {hash_file(target)}; "
                "train again"
            )

    def _read(self, key: str) -> bytes:
        data: bytes = self._s3.get_object(Bucket=self._run.bucket, Key=key)["Body"].read()
        return data

    def _report(self, folder: str, said: dict[str, object]) -> None:
        body = json.dumps({"run": self._run.id, "execution": self._run.execution, **said}).encode()
        key = layout.report(folder, self._run.id)
        self._s3.put_object(Bucket=self._run.bucket, Key=key, Body=body, ContentType="application/json")


def _weights_of(recipe: ModelRecipe) -> str:
    """Return the path of the file that the weights of a recipe are in."""
    source = recipe.source
    file = source.weights if isinstance(source, TorchModule) else None
    if isinstance(source, OnnxFile | TorchProgram):
        file = source.file
    if not isinstance(file, str):
        raise JobError(
            f"source of recipe '{recipe.name}' must name one file of weights in its folder, got "
            f"{type(source).__name__} with {file}; name a file such as 'weights.safetensors'"
        )
    return file


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cdk-inference-") as folder:
        yield Path(folder)
