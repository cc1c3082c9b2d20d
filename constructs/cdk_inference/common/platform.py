"""The Python version and the architecture of the Lambda functions, and the wheels that run there."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from cdk_inference.common.props.prop_types import check_props
from cdk_inference.common.props.validation import check_choice
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from aws_cdk import aws_lambda as lambda_
    from constructs import Construct

CONTEXT_KEY = "cdk-inference:platform"
"""Context key that overrides the platform of every function: the local target runs what the host can run."""

ACCELERATOR_KEY = "cdk-inference:accelerator"
"""Context key that, with the value ``cpu``, runs everything in plain functions on the CPU: the local target has neither
GPUs nor instances."""

# Lambda's Python 3.11 is on Amazon Linux 2, whose glibc (2.26) cannot load the wheels of the runtime's requirements.
_OLDEST_PYTHON = 12
_OLDEST_HOST_PYTHON = 11
# The manylinux versions (minor version of glibc) that uv can name.
_MANYLINUX = (17, 28, *range(31, 41))
_MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
_ARCHITECTURES: dict[str, Literal["arm64", "x86_64"]] = {
    "aarch64": "arm64",
    "arm64": "arm64",
    "x86_64": "x86_64",
    "amd64": "x86_64",
}


def on_cpu_only(scope: Construct) -> bool:
    """Return whether what is made for a GPU or for instances is to be a plain function on the CPU.

    Raises
    ------
    PropError
        If the context value is not one of the two.
    """
    accelerator = scope.node.try_get_context(ACCELERATOR_KEY)
    if accelerator is not None:
        check_choice(("cpu", "gpu"), **{f"context {ACCELERATOR_KEY}": accelerator})
    return bool(accelerator == "cpu")


@check_props
@dataclass(frozen=True)
class LambdaPlatform:
    """The platform that a Lambda function runs on.

    Parameters
    ----------
    python
        Version of Python, such as ``"3.14"`` (the default); 3.12 or newer, and known to the installed
        aws-cdk-lib. With `wheels`, 3.11 too: the local target's functions run on the host's Python.
    architecture
        ``"arm64"`` (the default, cheaper per millisecond) or ``"x86_64"``.
    wheels
        Platform of the wheels to bundle, as uv names it, such as ``"aarch64-manylinux_2_28"``. Default: the newest that
        Lambda's operating system (Amazon Linux 2023) can load.

    Raises
    ------
    PropError
        If the version or the architecture cannot be one of Lambda's.
    """

    python: str = "3.14"
    architecture: Literal["arm64", "x86_64"] = "arm64"
    wheels: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        match = re.fullmatch(r"3\.(\d+)", self.python)
        if match is None or int(match[1]) < (_OLDEST_HOST_PYTHON if self.wheels else _OLDEST_PYTHON):
            raise PropError(
                f"python must be '3.{_OLDEST_PYTHON}' or newer, got {self.python!r}; use one such as '3.14'"
            )
        check_choice(_MACHINES, architecture=self.architecture)

    def __str__(self) -> str:
        """Return the form that the context key takes, such as ``3.14/arm64``."""
        return "/".join(filter(None, (self.python, self.architecture, self.wheels)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form that ``str()`` gives, such as ``3.14/arm64``."""
        python, _, rest = text.partition("/")
        architecture, _, wheels = rest.partition("/")
        return cls(python, architecture, wheels=wheels or None)  # type: ignore[arg-type] # checked in __post_init__

    @classmethod
    def host(cls) -> Self:
        """Return the platform of this interpreter on this machine, whose wheels a local emulator can load."""
        machine = platform.machine().lower()
        if machine not in _ARCHITECTURES:
            raise PropError(
                f"this machine must be of an architecture that Lambda has, arm64 or x86_64, got {machine!r}"
            )
        architecture = _ARCHITECTURES[machine]
        uv_machine = _MACHINES[architecture]
        libc, version = platform.libc_ver()
        if sys.platform == "darwin":
            wheels = f"{uv_machine}-apple-darwin"
        elif libc == "glibc":
            glibc = int(version.split(".")[1])
            wheels = f"{uv_machine}-manylinux_2_{max(minor for minor in _MANYLINUX if minor <= glibc)}"
        else:
            wheels = f"{uv_machine}-unknown-linux-musl"
        return cls(f"{sys.version_info.major}.{sys.version_info.minor}", architecture, wheels=wheels)

    @classmethod
    def resolve(cls, scope: Construct, requested: LambdaPlatform | None = None) -> LambdaPlatform:
        """Return the platform in force: the context key's, otherwise the requested one, otherwise the default.

        Parameters
        ----------
        scope
            Construct whose context is asked for ``cdk-inference:platform``.
        requested
            The platform that the user's props name, if they name one.

        Raises
        ------
        PropError
            If the context value is not a platform such as ``3.14/arm64``.
        """
        override = scope.node.try_get_context(CONTEXT_KEY)
        if override is None:
            return requested or cls()
        try:
            return cls.parse(str(override))
        except PropError as error:
            raise PropError(f"context {CONTEXT_KEY}={override!r}: {error}") from None

    @property
    def uv_platform(self) -> str:
        """Platform of the wheels, as ``uv --python-platform`` takes it."""
        return self.wheels or f"{_MACHINES[self.architecture]}-manylinux_2_34"  # Amazon Linux 2023 has glibc 2.34

    @property
    def runtime(self) -> lambda_.Runtime:
        """The CDK runtime.

        Raises
        ------
        PropError
            If the installed aws-cdk-lib knows no such runtime.
        """
        from aws_cdk import aws_lambda as lambda_  # noqa: PLC0415 # takes seconds, and the local target needs host() alone

        runtime = getattr(lambda_.Runtime, f"PYTHON_{self.python.replace('.', '_')}", None)
        if not isinstance(runtime, lambda_.Runtime):
            known = sorted(
                int(name.removeprefix("PYTHON_3_")) for name in dir(lambda_.Runtime) if name.startswith("PYTHON_3_")
            )
            raise PropError(
                f"python must be '3.{_OLDEST_PYTHON}' to '3.{known[-1]}', which the installed aws-cdk-lib knows, got "
                f"{self.python!r}; use one of these, or upgrade aws-cdk-lib"
            )
        return runtime

    @property
    def cdk_architecture(self) -> lambda_.Architecture:
        """The CDK architecture."""
        from aws_cdk import aws_lambda as lambda_  # noqa: PLC0415 # as above

        return lambda_.Architecture.ARM_64 if self.architecture == "arm64" else lambda_.Architecture.X86_64
