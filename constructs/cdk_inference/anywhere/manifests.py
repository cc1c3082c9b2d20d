"""Manifests of the platforms that run the image: Kubernetes, Knative, Cloud Run and Azure Container Apps.

No manifest has a secret. A password is a file that a platform mounts, and clouds know who asks by the workload's
identity.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from cdk_inference.anywhere.image import PORT, USER
from cdk_inference.errors import PropError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Document = Mapping[str, Any]

STORES = ("s3", "gs", "az")
SINKS = ("dynamodb", "postgres", "stdout")

PASSWORD_FILE = "/var/run/postgres/password"  # noqa: S105 - where it is, not the password
"""The file that the secret of a database is mounted as."""

_EVENT_TYPES = {"gs": "google.cloud.storage.object.v1.finalized", "az": "Microsoft.Storage.BlobCreated"}
_EVENT_GRID = "eventgrid.azure.net"
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?")
_REFERENCE = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_SECRET = re.compile(r"PASSWORD(?!_FILE)|SECRET|TOKEN|(?:ACCESS|ACCOUNT)_KEY|SAS")
_SECONDS = re.compile(r"[1-9][0-9]{0,3}")
_MIB = 1024**2
_LEAST_MEMORY, _STEP = 512, 256  # MiB
_CONCURRENCY = 32
_DRAIN_SECONDS = 5
"""A pod that ends gets requests until all nodes know of it, which takes seconds."""

_SHUTDOWN = "SHUTDOWN_SECONDS"
_SHUTDOWN_SECONDS = 25  # the server's own default
_MOST_SHUTDOWN_SECONDS = 3_600  # the server's own limit
_CLOUD_RUN_SHUTDOWN_SECONDS = 9  # it kills after 10: https://cloud.google.com/run/docs/container-contract
_SPARE_SECONDS = 5
_BATCH_SECONDS = 300
_MOST_REPLICAS = 10
_STARTUP_PROBES = 60
_SHAPE = "256Mi"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The workload that the manifests deploy.

    Parameters
    ----------
    name
        The name of the workload: up to 48 lower-case letters, digits and dashes.
    image
        The image in its registry, without tag and digest.
    digest
        The digest of the image, so that nothing else runs.
    model_bytes
        The size of the model, by which memory is reserved.
    store
        ``s3``, ``gs`` or ``az``; None if events bring the data.
    buckets
        The buckets that the server reads.
    sink
        ``dynamodb``, ``postgres`` or ``stdout``.
    table
        The table of rows, which all but ``stdout`` need.
    more
        More variables of the server, such as ``PGHOST`` and ``AWS_REGION``. None may be a secret.

    Raises
    ------
    PropError
        A name is not one, or store, buckets, sink and table do not fit together. Or a variable may be a secret.
    """

    name: str
    image: str
    digest: str
    model_bytes: int
    store: str | None = None
    buckets: Sequence[str] = ()
    sink: str = "stdout"
    table: str | None = None
    more: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PropError(f"name must be up to 48 lower-case letters, digits and dashes, got '{self.name}'")
        if not _REFERENCE.fullmatch(self.image):
            raise PropError(f"image must be of the form registry/name, without tag and digest, got '{self.image}'")
        if self.store is not None and self.store not in STORES:
            raise PropError(f"object_store must be {' or '.join(STORES)}, got '{self.store}'")
        if bool(self.buckets) != (self.store is not None):
            raise PropError(f"bucket must be given with an object_store, and only then, got {list(self.buckets)}")
        if self.sink not in SINKS:
            raise PropError(f"result_sink must be {' or '.join(SINKS)}, got '{self.sink}'")
        if (self.table is None) != (self.sink == "stdout"):
            raise PropError(f"results_table must be given unless rows go to stdout, got {self.table!r}")
        for name in self.more:
            if not _VARIABLE.fullmatch(name) or _SECRET.search(name):
                raise PropError(f"variable must be a name, and not of a secret, got '{name}'; mount secrets as files")
        told = self.more.get(_SHUTDOWN, "1")
        if not (_SECONDS.fullmatch(told) and int(told) <= _MOST_SHUTDOWN_SECONDS):
            most = f"{_MOST_SHUTDOWN_SECONDS:,}"
            raise PropError(f"variable {_SHUTDOWN} must be a whole number from 1 to {most}, got '{told}'")

    @property
    def memory(self) -> int:
        """MiB: the model, as much again for its sums, and Python with its packages."""
        wanted = _LEAST_MEMORY + 2 * self.model_bytes / _MIB
        return math.ceil(wanted / _STEP) * _STEP

    @property
    def shutdown_seconds(self) -> int:
        """The seconds that requests which were begun have after SIGTERM, and a few to end the process."""
        return int(self.more.get(_SHUTDOWN, _SHUTDOWN_SECONDS)) + _SPARE_SECONDS

    @property
    def reference(self) -> str:
        """The image with its digest."""
        return f"{self.image}@{self.digest}"

    def variables(self, **more: str) -> list[dict[str, str]]:
        """Return the variables of the container."""
        stores = {} if self.store is None else {"OBJECT_STORE": self.store, "OBJECT_BUCKETS": " ".join(self.buckets)}
        table = {} if self.table is None else {"RESULTS_TABLE": self.table}
        password = {"POSTGRES_PASSWORD_FILE": PASSWORD_FILE} if self.sink == "postgres" else {}
        found = {**stores, "RESULT_SINK": self.sink, **table, **password, **more, **self.more}
        return [{"name": name, "value": value} for name, value in found.items()]


def write_manifests(folder: Path, deployment: Deployment) -> list[Path]:
    """Write a file for each platform, and return their paths.

    Parameters
    ----------
    folder
        Where they go; made if missing.
    deployment
        The workload that they deploy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, documents in {
        "kubernetes": _kubernetes(deployment),
        "knative": _knative(deployment),
        "cloud-run": [_cloud_run(deployment)],
        "container-app": [_container_app(deployment)],
    }.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
        written.append(path)
    return written


def _kubernetes(deployment: Deployment) -> list[Document]:
    name = deployment.name
    labels = {"app.kubernetes.io/name": name}
    container = {
        **_container(deployment, deployment.variables()),
        "startupProbe": {**_probe("/readyz"), "periodSeconds": 2, "failureThreshold": _STARTUP_PROBES},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5},
        "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10},
        "lifecycle": {"preStop": {"sleep": {"seconds": _DRAIN_SECONDS}}},
    }
    pod = {
        "serviceAccountName": name,
        "terminationGracePeriodSeconds": _DRAIN_SECONDS + deployment.shutdown_seconds,
        "securityContext": {**_nobody(), "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        **_pod(deployment, container),
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "labels": labels},
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": labels},
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
    ]


def _knative(deployment: Deployment) -> list[Document]:
    container = {
        **_container(deployment, deployment.variables(), http=True),
        "readinessProbe": _probe("/readyz", port=None),
        "livenessProbe": _probe("/healthz", port=None),
    }
    spec = {
        "containerConcurrency": _CONCURRENCY,
        "timeoutSeconds": _BATCH_SECONDS,
        **_pod(deployment, container),
    }
    service = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": deployment.name,
            # Only for the cluster: the server does not know who asks.
            "labels": {"networking.knative.dev/visibility": "cluster-local"},
        },
        "spec": {"template": {"spec": spec}},
    }
    kind = _EVENT_TYPES.get(deployment.store or "")
    trigger = {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Trigger",
        "metadata": {"name": deployment.name},
        "spec": {
            "broker": "default",
            **({} if kind is None else {"filter": {"attributes": {"type": kind}}}),
            "subscriber": {
                "ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": deployment.name},
            },
            "delivery": {"retry": 10, "backoffPolicy": "exponential", "backoffDelay": "PT1S"},
        },
    }
    return [service, trigger]


def _cloud_run(deployment: Deployment) -> Document:
    seconds = min(int(deployment.more.get(_SHUTDOWN, _SHUTDOWN_SECONDS)), _CLOUD_RUN_SHUTDOWN_SECONDS)
    variables = replace(deployment, more={**deployment.more, _SHUTDOWN: str(seconds)}).variables(REJECTED_STATUS="204")
    container = {
        **_container(deployment, variables, http=True, cloud_run=True),
        "startupProbe": {**_probe("/readyz", port=PORT), "periodSeconds": 2, "failureThreshold": _STARTUP_PROBES},
        "livenessProbe": {**_probe("/healthz", port=PORT), "periodSeconds": 10},
    }
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": deployment.name, "annotations": {"run.googleapis.com/ingress": "internal"}},
        "spec": {
            "template": {
                "metadata": {"annotations": {"autoscaling.knative.dev/maxScale": str(_MOST_REPLICAS)}},
                "spec": {
                    "containerConcurrency": _CONCURRENCY,
                    "timeoutSeconds": _BATCH_SECONDS,
                    **_pod(deployment, container, cloud_run=True),
                },
            }
        },
    }


def _container_app(deployment: Deployment) -> Document:
    variables = deployment.variables(REJECTED_STATUS="400", WEBHOOK_ORIGINS=_EVENT_GRID)
    probes = [
        {"type": kind, "httpGet": {"path": path, "port": PORT}, "periodSeconds": period, "failureThreshold": failures}
        for kind, path, period, failures in (
            ("Startup", "/healthz", 2, 10),  # at most 10 tries, which are not enough to open a large model
            ("Readiness", "/readyz", 5, 3),
            ("Liveness", "/healthz", 10, 3),
        )
    ]
    container: dict[str, Any] = {
        "name": deployment.name,
        "image": deployment.reference,
        "env": variables,
        # Container Apps give 2 GiB for each CPU.
        "resources": {"cpu": _cpus(deployment), "memory": f"{2 * _cpus(deployment):g}Gi"},
        "probes": probes,
    }
    template: dict[str, Any] = {
        "containers": [container],
        "terminationGracePeriodSeconds": deployment.shutdown_seconds,
        "scale": {
            "minReplicas": 0,
            "maxReplicas": _MOST_REPLICAS,
            "rules": [{"name": "http", "http": {"metadata": {"concurrentRequests": str(_CONCURRENCY // 2)}}}],
        },
    }
    configuration: dict[str, Any] = {
        "activeRevisionsMode": "Single",
        "ingress": {"external": False, "targetPort": PORT, "allowInsecure": False},
    }
    if deployment.sink == "postgres":
        folder, _, file = PASSWORD_FILE.rpartition("/")
        secrets = [{"secretRef": f"{deployment.name}-postgres", "path": file}]
        template["volumes"] = [{"name": "postgres", "storageType": "Secret", "secrets": secrets}]
        container["volumeMounts"] = [{"volumeName": "postgres", "mountPath": folder}]
    return {
        "type": "Microsoft.App/containerApps",
        "name": deployment.name,
        "identity": {"type": "SystemAssigned"},
        "properties": {"configuration": configuration, "template": template},
    }


def _cpus(deployment: Deployment) -> float:
    """Return the CPUs, in quarters, whose share of memory holds the model."""
    return max(1.0, math.ceil(deployment.memory / 512) / 4)


def _cpus_of_cloud_run(memory: int) -> int:
    """Return the least CPUs that Cloud Run has with so many MiB: https://cloud.google.com/run/docs/configuring/cpu."""
    return next((cpus for cpus, most in ((1, 4096), (2, 8192), (4, 16_384), (6, 24_576)) if memory <= most), 8)


def _container(
    deployment: Deployment, variables: Sequence[Document], *, http: bool = False, cloud_run: bool = False
) -> dict[str, Any]:
    """Return the container.

    Parameters
    ----------
    deployment
        The workload.
    variables
        Its environment.
    http
        Whether the platform names the protocol by the port's name.
    cloud_run
        Whether it is for Cloud Run, which isolates containers itself, and wants more CPUs for more memory.
    """
    memory = f"{deployment.memory}Mi"
    cpus = str(_cpus_of_cloud_run(deployment.memory) if cloud_run else 1)
    return {
        "name": "server",
        "image": deployment.reference,
        "env": list(variables),
        "ports": [{"name": "http1" if http else "http", "containerPort": PORT}],
        "resources": {"requests": {"cpu": cpus, "memory": memory}, "limits": {"cpu": cpus, "memory": memory}},
        **({} if cloud_run else {"securityContext": _locked()}),
    }


def _pod(deployment: Deployment, container: dict[str, Any], *, cloud_run: bool = False) -> dict[str, Any]:
    """Return the container with the folders that it needs: one to write, and the password of a database.

    Cloud Run has a file system that can be written, no tokens to mount, and versions of secrets instead of members.
    """
    mounts: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    if not cloud_run:
        mounts.append({"name": "tmp", "mountPath": "/tmp"})  # noqa: S108 - the container's
        volumes.append({"name": "tmp", "emptyDir": {"sizeLimit": _SHAPE}})
    if deployment.sink == "postgres":
        folder, _, file = PASSWORD_FILE.rpartition("/")
        mounts.append({"name": "postgres", "mountPath": folder, "readOnly": True})
        key = "latest" if cloud_run else file
        secret = {"secretName": f"{deployment.name}-postgres", "items": [{"key": key, "path": file}]}
        volumes.append({"name": "postgres", "secret": secret})
    return {
        **({} if cloud_run else {"automountServiceAccountToken": False}),
        "containers": [{**container, **({"volumeMounts": mounts} if mounts else {})}],
        **({"volumes": volumes} if volumes else {}),
    }


def _nobody() -> dict[str, Any]:
    return {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER}


def _locked() -> dict[str, Any]:
    return {
        **_nobody(),
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _probe(path: str, port: str | int | None = "http") -> dict[str, Any]:
    return {"httpGet": {"path": path, **({} if port is None else {"port": port})}}
