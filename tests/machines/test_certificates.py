"""Behind a company's proxy, whose certificate only the system knows, or nobody."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.machines.proxy import company_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("fetches.py")
WEIGHTS = b"weights" * 1000
INDEX = "https://packages.example/simple/"
STORE = Path("/etc/ssl/certs")


def wheel() -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("alpha.py", "")
        archive.writestr("alpha-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n")
        archive.writestr("alpha-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("alpha-1.0.dist-info/RECORD", "")
    return content.getvalue()


FILES = {
    "https://models.example/weights": WEIGHTS,
    f"{INDEX}alpha/": b'<a href="alpha-1.0-py3-none-any.whl">alpha-1.0-py3-none-any.whl</a>',
    f"{INDEX}alpha/alpha-1.0-py3-none-any.whl": wheel(),
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def proxy(authority: trustme.CA) -> Iterator[str]:
    with company_proxy(authority, FILES) as url:
        yield url


@pytest.fixture
def fetch(proxy: str, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Fetch everything from a clean environment, as a fresh machine has it."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HTTPS_PROXY": proxy,
        "UV_DEFAULT_INDEX": INDEX,
        "UV_HTTP_RETRIES": "0",
        "PIP_INDEX_URL": INDEX,
        "PIP_CONFIG_FILE": os.devnull,
    }

    def run(*prefix: str, **variables: str) -> dict[str, str]:
        command = [sys.executable, PROGRAM, tmp_path, "https://models.example/weights"]
        done = subprocess.run(
            [*prefix, *command, hashlib.sha256(WEIGHTS).hexdigest(), "alpha==1.0"],
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path) -> list[str]:
    """A command's prefix: in there, the system's store holds the proxy's authority and nothing else."""
    store = tmp_path / "store"
    store.mkdir()
    authority.cert_pem.write_to_path(str(store / "ca-certificates.crt"))
    digest = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", store / "ca-certificates.crt"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    shutil.copy(store / "ca-certificates.crt", store / f"{digest}.0")
    prefix = ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {STORE} && exec "$@"', str(store)]
    if not (STORE / "ca-certificates.crt").exists() or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("needs the right to mount, and the certificates where Debian has them")
    return prefix


def test_everything_is_fetched_if_the_system_knows_the_certificate(
    fetch: Callable[..., dict[str, str]], trusting: list[str]
) -> None:
    assert fetch(*trusting) == {"weights": "fetched", "wheel": "fetched", "pip": "fetched"}


def test_everything_is_fetched_if_a_variable_names_the_certificate(
    fetch: Callable[..., dict[str, str]], authority: trustme.CA, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(str(bundle))
    assert fetch(SSL_CERT_FILE=str(bundle)) == {"weights": "fetched", "wheel": "fetched", "pip": "fetched"}


def test_a_certificate_that_nobody_knows_fails_with_what_to_do(fetch: Callable[..., dict[str, str]]) -> None:
    found = fetch()
    assert found["weights"].startswith("cannot fetch https://models.example/weights: its certificate is not trusted (")
    assert found["weights"].endswith("or name a file with it in REQUESTS_CA_BUNDLE")
    assert found["wheel"].startswith("requirements of Preprocess: 'alpha==1.0' cannot be bundled ")
    assert "invalid peer certificate" in found["wheel"]
    assert found["wheel"].endswith("or name a file with it in SSL_CERT_FILE")
    assert found["pip"] != "fetched"
