"""Manifests: they fit the schemas of Kubernetes, have no secret, and give the container as little as it needs."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from azure.mgmt.appcontainers import models, types
from typing_extensions import is_typeddict

from cdk_inference.anywhere.manifests import Deployment, write_manifests
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
DEFAULTS: dict[str, Any] = {
    "name": "photos",
    "image": "registry.example.com:5000/team/photos",
    "digest": DIGEST,
    "model_bytes": 100_000_000,
}
STORES = [
    {},
    {"store": "gs", "buckets": ["inbox", "other"]},
    {"store": "az", "buckets": ["inbox"], "sink": "postgres", "table": "results"},
    {"store": "s3", "buckets": ["inbox"], "sink": "dynamodb", "table": "results", "more": {"AWS_REGION": "eu-west-1"}},
]


KNATIVE_REVISION = {
    *("automountServiceAccountToken", "containerConcurrency", "containers", "enableServiceLinks"),
    *("idleTimeoutSeconds", "imagePullSecrets", "responseStartTimeoutSeconds", "serviceAccountName"),
    *("timeoutSeconds", "volumes"),
}
KNATIVE_CONTAINER = {
    *("args", "command", "env", "envFrom", "image", "imagePullPolicy", "livenessProbe", "name", "ports"),
    *("readinessProbe", "resources", "securityContext", "startupProbe", "terminationMessagePath"),
    *("terminationMessagePolicy", "volumeMounts", "workingDir"),
}
"""The members that the definition of Knative Serving 1.17 has, without those that a feature flag has to allow."""


NAMES = {**vars(models), **vars(types)}


def misfits(value: Any, kind: Any, where: str = "app") -> Iterator[str]:
    """Yield the places of a value that do not fit a type of Microsoft's SDK, whose members are those of the API."""
    if is_typeddict(kind):
        known = get_type_hints(kind, NAMES)
        for name, member in value.items():
            yield from misfits(member, known[name], f"{where}.{name}") if name in known else [f"{where}.{name}"]
    elif get_origin(kind) is list:
        for number, member in enumerate(value):
            yield from misfits(member, get_args(kind)[0], f"{where}[{number}]")
    elif get_origin(kind) is Union:  # of texts, and their choices
        choices = [each.value for one in get_args(kind) if issubclass(one, Enum) for each in one]
        yield from [] if value in choices else [where]
    elif not isinstance(value, (int, float) if kind is float else get_origin(kind) or kind):
        yield where


def test_what_azure_does_not_know_is_found() -> None:
    """The check itself: a name, a type and a choice that are wrong."""
    probes = [{"type": "Startup", "httpGet": {"path": "/", "port": "http"}}]
    template = {"containers": [{"name": "a", "image": "b", "ports": [], "probes": probes}], "scale": {"minReplicas": 0}}
    app = {"properties": {"template": template, "configuration": {"activeRevisionsMode": "Triple"}}}
    assert set(misfits(app, types.ContainerApp)) == {
        "app.properties.template.containers[0].ports",
        "app.properties.template.containers[0].probes[0].httpGet.port",
        "app.properties.configuration.activeRevisionsMode",
    }


def test_requests_that_were_begun_have_their_time_and_pods_are_forgotten_first(tmp_path: Path) -> None:
    found = written(tmp_path, more={"SHUTDOWN_SECONDS": "40"})
    pod = pods(found)["kubernetes"]
    # The server listens until no node sends requests to the pod any more.
    assert pod["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    assert pod["terminationGracePeriodSeconds"] == 5 + 40 + 5
    assert found["container-app"][0]["properties"]["template"]["terminationGracePeriodSeconds"] == 45
    for more, seconds in (({}, "9"), ({"SHUTDOWN_SECONDS": "40"}, "9"), ({"SHUTDOWN_SECONDS": "3"}, "3")):
        [container] = pods(written(tmp_path, more=more))["cloud-run"]["containers"]  # has 10 s, whatever it is told
        assert {"name": "SHUTDOWN_SECONDS", "value": seconds} in container["env"]


@pytest.mark.parametrize("told", ["long", "0", "3601", "1.5", "٣", "9" * 5000])
def test_a_time_that_the_server_refuses_fails(tmp_path: Path, told: str) -> None:
    with pytest.raises(PropError, match="SHUTDOWN_SECONDS must be a whole number from 1 to 3,600, got "):
        written(tmp_path, more={"SHUTDOWN_SECONDS": told})


def written(folder: Path, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    paths = write_manifests(folder, Deployment(**{**DEFAULTS, **changes}))
    return {path.stem: list(yaml.safe_load_all(path.read_text())) for path in paths}


def pods(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The specification of the pod in each file whose form is that of Kubernetes."""
    return {
        "kubernetes": found["kubernetes"][1]["spec"]["template"]["spec"],
        "knative": found["knative"][0]["spec"]["template"]["spec"],
        "cloud-run": found["cloud-run"][0]["spec"]["template"]["spec"],
    }


@pytest.mark.parametrize("changes", STORES)
def test_manifests_fit_the_schemas_and_pin_the_image(tmp_path: Path, changes: dict[str, Any]) -> None:
    import kubernetes_validate

    found = written(tmp_path, **changes)
    for document in found["kubernetes"]:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    for pod in pods(found).values():
        # Knative's template is a pod with two more members; its schema has no definitions offline.
        plain = {name: value for name, value in pod.items() if name not in {"containerConcurrency", "timeoutSeconds"}}
        probes = ("readinessProbe", "livenessProbe")
        [container] = plain["containers"]
        for probe in probes:
            if probe in container:
                container[probe]["httpGet"].setdefault("port", 8080)  # which Knative takes from the container
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "photos"}, "spec": plain}
        kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)
        assert container["image"] == f"registry.example.com:5000/team/photos@{DIGEST}"
        assert container["resources"]["limits"]["memory"] == "768Mi"
    spec, [container] = pods(found)["knative"], pods(found)["knative"]["containers"]
    assert spec.keys() <= KNATIVE_REVISION
    assert container.keys() <= KNATIVE_CONTAINER
    [app] = found["container-app"]
    assert not list(misfits(app, types.ContainerApp))
    assert app["properties"]["template"]["containers"][0]["image"].endswith(DIGEST)
    assert app["properties"]["configuration"]["ingress"]["external"] is False


@pytest.mark.parametrize("changes", STORES)
def test_containers_may_do_little_and_know_no_secret(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = written(tmp_path, **changes)
    for name, pod in pods(found).items():
        [container] = pod["containers"]
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert variables.keys() <= {
            *("OBJECT_STORE", "OBJECT_BUCKETS", "RESULT_SINK", "RESULTS_TABLE"),
            *("POSTGRES_PASSWORD_FILE", "REJECTED_STATUS", "AWS_REGION", "SHUTDOWN_SECONDS"),
        }
        assert all("valueFrom" not in entry for entry in container["env"])
        if name != "cloud-run":  # which isolates containers itself
            assert pod["automountServiceAccountToken"] is False
            assert container["securityContext"] == {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }
    service, trigger = found["knative"]
    assert service["metadata"]["labels"] == {"networking.knative.dev/visibility": "cluster-local"}
    assert trigger["spec"]["subscriber"]["ref"]["name"] == "photos"
    kind = {"gs": "google.cloud.storage.object.v1.finalized", "az": "Microsoft.Storage.BlobCreated"}
    expected = {"attributes": {"type": kind[changes["store"]]}} if changes.get("store") in kind else None
    assert trigger["spec"].get("filter") == expected


def test_a_broker_is_told_what_it_understands(tmp_path: Path) -> None:
    found = written(tmp_path, **STORES[1])
    env = {entry["name"]: entry["value"] for entry in pods(found)["cloud-run"]["containers"][0]["env"]}
    assert (env["REJECTED_STATUS"], env["OBJECT_BUCKETS"]) == ("204", "inbox other")
    app = found["container-app"][0]["properties"]["template"]["containers"][0]
    azure = {entry["name"]: entry["value"] for entry in app["env"]}
    assert (azure["REJECTED_STATUS"], azure["WEBHOOK_ORIGINS"]) == ("400", "eventgrid.azure.net")
    assert (app["resources"]["cpu"], app["resources"]["memory"]) == (1.0, "2Gi")
    # Azure tries 10 times at most before it kills: a large model takes longer to open, and traffic waits for it.
    paths = {probe["type"]: probe["httpGet"]["path"] for probe in app["probes"]}
    assert paths == {"Startup": "/healthz", "Readiness": "/readyz", "Liveness": "/healthz"}


@pytest.mark.parametrize(("model_mib", "cpus"), [(1792, "1"), (1793, "2"), (3841, "4"), (12_033, "8")])
def test_a_large_model_has_the_cpus_without_which_cloud_run_refuses_its_memory(
    tmp_path: Path, model_mib: int, cpus: str
) -> None:
    [service] = written(tmp_path, model_bytes=model_mib * 1024**2)["cloud-run"]
    [container] = service["spec"]["template"]["spec"]["containers"]
    assert {each["cpu"] for each in container["resources"].values()} == {cpus}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Photos"}, "name must be up to 48"),
        ({"image": "photos:latest"}, "image must be of the form registry/name"),
        ({"image": "registry.example.com/a@sha256:0"}, "image must be"),
        ({"store": "ftp", "buckets": ["a"]}, "object_store must be s3 or gs or az, got 'ftp'"),
        ({"store": "gs"}, "bucket must be given with an object_store"),
        ({"buckets": ["a"]}, "bucket must be given with an object_store"),
        ({"sink": "paper"}, "result_sink must be dynamodb or postgres or stdout, got 'paper'"),
        ({"sink": "postgres"}, "results_table must be given unless rows go to stdout, got None"),
        ({"more": {"PGPASSWORD": "x"}}, "variable must be a name, and not of a secret, got 'PGPASSWORD'"),
        ({"more": {"AWS_SECRET_ACCESS_KEY": "x"}}, "mount secrets as files"),
        ({"more": {"a b": "x"}}, "variable must be a name"),
        ({"table": "t"}, "results_table must be given unless rows go to stdout, got 't'"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PropError, match=message):
        Deployment(**{**DEFAULTS, **changes})
