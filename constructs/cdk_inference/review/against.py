"""Finds what an app is compared with: another cloud assembly, a git ref, or what is deployed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdk_inference.common.cdk_cli import installed_cdk
from cdk_inference.review.assembly import Assembly, nested_path, read_assembly
from cdk_inference.review.errors import ReviewError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import boto3

    from cdk_inference.review.template import Template

DEPLOYED = "deployed"
"""The word for the deployed stacks of the same names."""

_NESTED = "AWS::CloudFormation::Stack"


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


def read_deployed(after: Assembly, session: boto3.Session | None = None) -> Assembly:
    """Read the templates that are deployed under the names of an app's stacks; those that are not are left out.

    Raises
    ------
    ReviewError
        If boto3 is not installed.
    """
    try:
        import boto3  # noqa: PLC0415 - for those who compare with what is deployed
        from botocore.exceptions import ClientError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ReviewError("boto3 must be installed; pip install 'cdk-inference[review]'") from error
    session = session or boto3.Session()
    found: dict[str, Template] = {}
    for template in after.templates.values():
        if template.nested:
            continue
        client = session.client("cloudformation", region_name=template.region or session.region_name)
        try:
            body = _body(client, template.stack_name)
        except ClientError as error:
            if "does not exist" in str(error):
                continue
            raise
        _add(client, replace(template, body=body), template.stack_name, found)
    return Assembly("what is deployed", found)


def _add(client: Any, template: Template, stack: str, into: dict[str, Template]) -> None:  # noqa: ANN401 - boto3's
    into[template.path] = template
    for resource in template.of_type(_NESTED):
        said = client.describe_stack_resource(StackName=stack, LogicalResourceId=resource.logical_id)
        name = said["StackResourceDetail"]["PhysicalResourceId"]
        path = nested_path(resource)
        inner = replace(template, path=path, body=_body(client, name), nested=True)
        _add(client, inner, name, into)


def _body(client: Any, stack: str) -> dict[str, Any]:  # noqa: ANN401 - boto3's
    body = client.get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise ReviewError(f"the template of {stack} must be JSON, got YAML; deploy the stack with CDK") from error
    return dict(body)
