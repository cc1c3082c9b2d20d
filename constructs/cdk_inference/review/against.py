"""Finds what an app is compared with: another cloud assembly, a git ref, or what is deployed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cdk_inference.common.cdk_cli import installed_cdk
from cdk_inference.review.assembly import read_assembly
from cdk_inference.review.deployed import read_deployed
from cdk_inference.review.errors import ReviewError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import boto3

    from cdk_inference.review.assembly import Assembly

DEPLOYED = "deployed"
"""The word for the deployed stacks of the same names."""


def read_against(text: str, after: Assembly, *, folder: Path, session: boto3.Session | None = None) -> Assembly:
    """Read what an app is compared with.

    Parameters
    ----------
    text
        A folder with a cloud assembly. ``deployed`` stands for the stacks that are deployed under the same names.
        Everything else is a git ref, which is synthesized.
    after
        The app.
    folder
        The folder of the app, with its ``cdk.json``.
    session
        The credentials for ``deployed``. Default: boto3's own.

    Raises
    ------
    ReviewError
        If it does not exist, or the ref cannot be synthesized.
    """
    if (Path(text) / "manifest.json").is_file():
        return read_assembly(Path(text))
    if text == DEPLOYED:
        return read_deployed(after, session)
    with _checked_out(text, folder) as app:
        output = app / "cdk.out.review"
        _synthesize(app, output, text)
        return read_assembly(output, text)


@contextmanager
def _checked_out(ref: str, folder: Path) -> Iterator[Path]:
    """Check a git ref out into a folder that goes again, and yield the app's folder in it."""
    try:
        commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        inside = _git(folder, "rev-parse", "--show-prefix")
    except (OSError, subprocess.CalledProcessError) as error:
        raise ReviewError(
            f"against must be the folder of a cloud assembly, '{DEPLOYED}' or a git ref, got '{ref}'; run cdk synth "
            "--output FOLDER, or fetch the ref"
        ) from error
    with tempfile.TemporaryDirectory(prefix="cdk-inference-review-") as name:
        tree = Path(name) / "tree"
        _git(folder, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            if not (tree / inside).is_dir():
                raise ReviewError(
                    f"app-folder must be a folder of the git ref {ref}, got '{inside}'; name a ref that has the app"
                )
            yield tree / inside
        finally:
            _git(folder, "worktree", "remove", "--force", str(tree))


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607 - as people have it
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _synthesize(app: Path, output: Path, ref: str) -> None:
    cdk = installed_cdk("review", ReviewError)
    # As `local` does it: the app's python3 is ours, and jsii finds the CLI's Node.
    path = os.pathsep.join([str(cdk.node.parent), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    settings = {"PATH": path, "JSII_NODE": str(cdk.node), "CDK_DISABLE_VERSION_CHECK": "true", "NO_COLOR": "1"}
    done = subprocess.run(  # noqa: S603
        [*cdk.command, "synth", "--quiet", "--output", str(output), "--no-notices", "--ci"],
        cwd=app,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise ReviewError(f"{ref} cannot be synthesized: {done.stdout.strip()}")
