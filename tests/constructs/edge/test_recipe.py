"""The recipe of a component: what AWS's schema and both nuclei ask of it, and that no text of a user reaches a shell.

The schema of aws-greengrass/aws-greengrass-gdk-cli and the converter of aws-greengrass/aws-greengrass-lite took recipes
as these. No package has either, so that the tests state what they ask for.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdk_inference import EdgeInput, PropError
from cdk_inference.edge.inputs import check_path
from cdk_inference.edge.recipe import SETTINGS, Artifact, recipe

ARTIFACTS = [Artifact("arm64", "s3://assets/aaa.zip", "aaa"), Artifact("x86_64", "s3://assets/bbb.zip", "bbb")]
VARIABLES = {"AWS_REGION": "eu-west-1", "INBOX_BUCKET": "inbox", "INBOX_PREFIX": "edge/{iot:thingName}/"}
# Nucleus lite replaces these and no others.
KNOWN = {"artifacts:decompressedPath", "work:path", "iot:thingName", *(f"configuration:/{name}" for name in SETTINGS)}


def made(**settings: str) -> dict[str, Any]:
    return recipe(
        name="com.example.Digits",
        version="1.0.7",
        description="scores on devices",
        python="3.13",
        settings=settings,
        variables=VARIABLES,
        artifacts=ARTIFACTS,
    )


def test_it_has_what_the_schema_asks_for_in_the_case_that_nucleus_lite_reads() -> None:
    found = made(WATCH_FOLDER="/in")
    assert set(found) == {
        "RecipeFormatVersion",
        "ComponentName",
        "ComponentVersion",
        "ComponentType",
        "ComponentDescription",
        "ComponentPublisher",
        "ComponentConfiguration",
        "ComponentDependencies",
        "Manifests",
    }
    assert found["RecipeFormatVersion"] == "2020-01-25"
    assert found["ComponentType"] == "aws.greengrass.generic"
    (requirement,) = found["ComponentDependencies"].values()
    assert requirement == {"VersionRequirement": ">=0.0.0", "DependencyType": "HARD"}
    for manifest, (architecture, folder) in zip(
        found["Manifests"], [("aarch64", "aaa"), ("amd64", "bbb")], strict=True
    ):
        assert set(manifest) == {"Platform", "Lifecycle", "Artifacts"}
        # Without a runtime, nucleus lite passes a manifest over.
        assert manifest["Platform"] == {"os": "linux", "architecture": architecture, "runtime": "*"}
        assert set(manifest["Lifecycle"]) == {"Setenv", "install", "run"}
        for phase in ("install", "run"):
            assert set(manifest["Lifecycle"][phase]) <= {"Script", "Timeout", "RequiresPrivilege"}
            assert manifest["Lifecycle"][phase]["RequiresPrivilege"] is False
        assert isinstance(manifest["Lifecycle"]["install"]["Timeout"], int)
        (artifact,) = manifest["Artifacts"]
        assert artifact["Unarchive"] == "ZIP"
        assert artifact["Permission"] == {"Read": "OWNER", "Execute": "NONE"}
        environment = manifest["Lifecycle"]["Setenv"]
        assert environment["PYTHONPATH"] == f"{{artifacts:decompressedPath}}/{folder}"
        for name, value in environment.items():
            assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name), "the name of a variable in every shell"
            assert isinstance(value, str), "nucleus lite takes strings alone"
            assert set(re.findall(r"\{([^}]*)\}", value)) <= KNOWN
            assert not set(re.sub(r"\{[^{}]*\}", "", value)) & set("{}"), "it would be the begin of a variable"


def test_each_setting_can_be_changed_by_a_deployment() -> None:
    found = made(WATCH_FOLDER="/in")
    defaults = found["ComponentConfiguration"]["DefaultConfiguration"]
    assert tuple(defaults) == SETTINGS
    assert defaults["WATCH_FOLDER"] == "/in"
    assert defaults["MQTT_URL"] == "", "nothing can be left out of an environment"
    for manifest in found["Manifests"]:
        environment = manifest["Lifecycle"]["Setenv"]
        assert all(environment[name] == f"{{configuration:/{name}}}" for name in SETTINGS)


@given(st.dictionaries(st.sampled_from(SETTINGS), st.text()))
def test_no_setting_is_part_of_a_script(settings: dict[str, str]) -> None:
    """A shell reads scripts, and the classic nucleus replaces variables in them as they are."""
    plain, found = made(), made(**settings)
    assert found["Manifests"] == plain["Manifests"]
    for manifest in found["Manifests"]:
        scripts = [manifest["Lifecycle"][phase]["Script"] for phase in ("install", "run")]
        assert scripts == [f"exec python3.13 -m inference_runtime.edge {what}" for what in ("check", "run")]
        assert all(shlex.split(script) == script.split() for script in scripts)
    assert json.loads(json.dumps(found)) == found


PATHS = st.text().map(lambda text: f"/{text}")


@given(PATHS)
def test_a_folder_is_one_line_for_the_shell_of_nucleus_lite(path: str) -> None:
    """It exports values in single quotes, with single quotes in them escaped."""
    try:
        settings = EdgeInput.folder(path).settings()
    except PropError:
        return
    (value,) = settings.values()
    assert value == path
    assert "\n" not in value
    quoted = "'" + value.replace("'", "'\\''") + "'"
    assert shlex.split(quoted) == [value]


def test_a_hostile_folder_does_nothing_in_a_shell(tmp_path) -> None:
    path = f"/x'; touch {tmp_path}/made; $(touch {tmp_path}/made) `touch {tmp_path}/made` \"\\"
    value = EdgeInput.folder(path).settings()["WATCH_FOLDER"]
    quoted = "'" + value.replace("'", "'\\''") + "'"
    shown = subprocess.run(
        ["sh", "-c", f'export WATCH_FOLDER={quoted}\nprintf %s "$WATCH_FOLDER"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == path
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["in", "", "/a\nb", "/a\x00", "/a/../etc", "/" + "a" * 4095])
def test_a_path_that_cannot_be_one_fails(path: str) -> None:
    with pytest.raises(PropError, match="folder must"):
        check_path("folder", path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"topic": ""}, "topic must have 1 to 800 bytes of printable characters, got ''"),
        ({"topic": "a\x00"}, "topic must have 1 to 800 bytes"),
        ({"topic": "a/#/b"}, "topic must have [+] as a whole level, and # as the last one, got 'a/#/b'"),
        ({"topic": "a/b+"}, "topic must have [+] as a whole level"),
        ({"topic": "a", "result_topic": "b/#"}, "result_topic must be without [+] and #, got 'b/#'; name one topic"),
        ({"topic": "a", "url": "http://host"}, "url must be mqtt://host:port or mqtts://host:port, got 'http://host'"),
        ({"topic": "a", "url": "mqtt://"}, "url must be mqtt://host:port"),
        ({"topic": "a", "url": "mqtt://host:0"}, "url must be mqtt://host:port"),
        ({"topic": "a", "url": "mqtt://host:66666"}, "url must be mqtt://host:port"),
        ({"topic": "a", "url": "mqtt://host/path"}, "url must be mqtt://host:port"),
        ({"topic": "a", "url": "mqtts://me:secret@host"}, "url must be without a password, got one; give the device"),
        ({"topic": "a", "cert_file": "/c"}, "cert_file and key_file must be given together, got cert_file alone"),
        ({"topic": "a", "ca_file": "c"}, "ca_file must be an absolute path"),
    ],
)
def test_a_topic_or_broker_that_cannot_be_one_fails(given: dict[str, str], message: str) -> None:
    with pytest.raises(PropError, match=message) as raised:
        EdgeInput.mqtt(**given)
    assert "secret" not in str(raised.value)


def test_a_broker_is_known_by_its_settings() -> None:
    found = EdgeInput.mqtt(
        topic="cameras/+/#",
        url="mqtts://[::1]:8883",
        result_topic="answers",
        ca_file="/a",
        cert_file="/b",
        key_file="/c",
    )
    assert found.settings() == {
        "MQTT_URL": "mqtts://[::1]:8883",
        "MQTT_TOPIC": "cameras/+/#",
        "MQTT_RESULT_TOPIC": "answers",
        "MQTT_CA_FILE": "/a",
        "MQTT_CERT_FILE": "/b",
        "MQTT_KEY_FILE": "/c",
    }
