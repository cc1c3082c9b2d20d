"""The recipe of a component, for the classic nucleus of AWS IoT Greengrass and for nucleus lite.

No value of a user is part of a script, which a shell reads. Both nuclei put settings into the environment instead.
Nucleus lite reads keys by upper and lower case, replaces few variables, and takes a ``{`` for the begin of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT = "2020-01-25"
"""The version of the format: https://docs.aws.amazon.com/greengrass/v2/developerguide/component-recipe-reference.html"""

SETTINGS = (
    "WATCH_FOLDER",
    "WATCH_SUFFIXES",
    "MQTT_URL",
    "MQTT_TOPIC",
    "MQTT_RESULT_TOPIC",
    "MQTT_CA_FILE",
    "MQTT_CERT_FILE",
    "MQTT_KEY_FILE",
    "RESULTS_FOLDER",
    "MAX_SPOOL_BYTES",
    "UPLINK_BYTES_PER_SECOND",
)
"""The settings that a deployment may change on its devices; one that is empty is not set."""

THING = "{iot:thingName}"
"""The variable of a recipe for the name of the device."""

_ARCHITECTURES = {"arm64": "aarch64", "x86_64": "amd64"}
_CHECK_SECONDS = 300


@dataclass(frozen=True)
class Artifact:
    """The package of an architecture.

    Parameters
    ----------
    architecture
        ``"arm64"`` or ``"x86_64"``.
    uri
        Where it is in S3.
    folder
        The name of the folder that it is unpacked into: that of the file, without its suffix.
    """

    architecture: str
    uri: str
    folder: str


def recipe(
    *,
    name: str,
    version: str,
    description: str,
    python: str,
    settings: Mapping[str, str],
    variables: Mapping[str, str],
    artifacts: Sequence[Artifact],
) -> dict[str, Any]:
    """Return a recipe.

    Parameters
    ----------
    name, version, description
        Those of the component.
    python
        The version of Python on the devices.
    settings
        Values of `SETTINGS`.
    variables
        More of the agent's environment, which no deployment changes. Values may be tokens of CDK.
    artifacts
        The packages.
    """
    return {
        "RecipeFormatVersion": FORMAT,
        "ComponentName": name,
        "ComponentVersion": version,
        "ComponentType": "aws.greengrass.generic",
        "ComponentDescription": description,
        "ComponentPublisher": "cdk-inference",
        "ComponentConfiguration": {"DefaultConfiguration": {key: settings.get(key, "") for key in SETTINGS}},
        "ComponentDependencies": {
            # Both nuclei have it, in different versions.
            "aws.greengrass.TokenExchangeService": {"VersionRequirement": ">=0.0.0", "DependencyType": "HARD"}
        },
        "Manifests": [_manifest(artifact, python, variables) for artifact in artifacts],
    }


def _manifest(artifact: Artifact, python: str, variables: Mapping[str, str]) -> dict[str, Any]:
    root = f"{{artifacts:decompressedPath}}/{artifact.folder}"
    command = f"exec python{python} -m inference_runtime.edge"
    return {
        "Platform": {"os": "linux", "architecture": _ARCHITECTURES[artifact.architecture], "runtime": "*"},
        "Lifecycle": {
            "Setenv": {
                "PYTHONPATH": root,
                "LAMBDA_TASK_ROOT": root,
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
                "PYTHONSAFEPATH": "1",  # nothing is imported from the folder that it runs in
                "DEVICE": THING,
                "STATE_FOLDER": "{work:path}",
                **variables,
                **{key: f"{{configuration:/{key}}}" for key in SETTINGS},
            },
            # A package that does not answer as it should never runs: the deployment fails, and the nucleus goes back.
            "install": {"Script": f"{command} check", "Timeout": _CHECK_SECONDS, "RequiresPrivilege": False},
            "run": {"Script": f"{command} run", "RequiresPrivilege": False},
        },
        "Artifacts": [{"Uri": artifact.uri, "Unarchive": "ZIP", "Permission": {"Read": "OWNER", "Execute": "NONE"}}],
    }
