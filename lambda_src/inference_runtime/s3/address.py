"""Where an object of S3 or a service of AWS is: the host to connect to, and the path there."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from inference_runtime.errors import RetryableError

# By the beginning of a region's name; all others end in amazonaws.com. A test compares them with botocore's list.
_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "eusc-": "amazonaws.eu",
}
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Address(NamedTuple):
    """Where to connect to, and what the server is called in requests."""

    host: str
    port: int = 443
    secure: bool = True
    authority: str = ""

    @property
    def name(self) -> str:
        """The header `host`."""
        return self.authority or self.host


class Locator:
    """Tells where objects are, by the environment: the endpoint is looked up once.

    Parameters
    ----------
    region
        Where the buckets are.

    Raises
    ------
    RetryableError
        If the endpoint that the environment names is none.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._endpoint = _configured_endpoint("s3")

    def locate(self, bucket: str, key: str) -> tuple[Address, str]:
        """Return where an object is: the host, and the path there, percent-encoded.

        Raises
        ------
        RetryableError
            If there can be no such object.
        """
        try:
            name, folder = quote(key, safe="/~"), quote(bucket, safe="~")
        except UnicodeEncodeError as error:
            raise RetryableError(f"there can be no object {key!a:.200} in the bucket {bucket!a:.100}") from error
        if self._endpoint is not None and bucket:
            address, prefix = self._endpoint
            return address, f"{prefix}/{folder}/{name}"
        if not _BUCKET.fullmatch(bucket):
            raise RetryableError(f"{bucket!a:.100} is no name of a bucket")
        host = _host("s3", self._region)
        if "." in bucket:  # S3's certificate is for one name before the host
            return Address(host), f"/{folder}/{name}"
        return Address(f"{bucket}.{host}"), f"/{name}"


def service_address(service: str, region: str) -> tuple[Address, str]:
    """Return where a service is, and the path of its requests.

    Parameters
    ----------
    service
        The beginning of its host's name, such as ``dynamodb``.
    region
        Its Region.

    Raises
    ------
    RetryableError
        If the endpoint that the environment names is none.
    """
    if (endpoint := _configured_endpoint(service)) is not None:
        return endpoint[0], f"{endpoint[1]}/"
    return Address(_host(service, region)), "/"


def _host(service: str, region: str) -> str:
    suffix = next((s for start, s in _SUFFIXES.items() if region.startswith(start)), "amazonaws.com")
    fips = "-fips" if os.environ.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true" else ""
    return f"{service}{fips}.{region}.{suffix}"


def _configured_endpoint(service: str) -> tuple[Address, str] | None:
    """Return the endpoint that the environment names, and what paths begin with there, or None on AWS itself."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    name = service.upper()
    address = os.environ.get(f"AWS_ENDPOINT_URL_{name}") or os.environ.get("AWS_ENDPOINT_URL")
    if not address:
        return None
    told = f"the endpoint of {name} is {address!a:.200}"
    try:
        url = urlsplit(address)
        host, port = url.hostname or "", url.port
        host.encode("idna")  # as the connection does it
    except ValueError as error:
        raise RetryableError(f"{told}: {error}") from error
    if url.scheme not in {"http", "https"} or not host.isascii() or not host.isprintable() or not host:
        raise RetryableError(f"{told}, expected http://… or https://…")
    secure = url.scheme == "https"
    usual = 443 if secure else 80
    port = port or usual
    authority = f"[{host}]" if ":" in host else host
    server = Address(host, port, secure, authority if port == usual else f"{authority}:{port}")
    return server, quote(url.path.rstrip("/"), "/%~")
