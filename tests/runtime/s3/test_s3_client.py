"""The S3 client of the inference function signs, finds endpoints and retries as botocore does."""

from __future__ import annotations

import datetime
import io
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import botocore.auth
import botocore.session
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.storage_server import TLS, storage_server
from tests.waiting import PATIENCE

from inference_runtime.errors import RetryableError
from inference_runtime.s3 import client, credentials
from inference_runtime.s3.address import Locator
from inference_runtime.s3.client import S3Client, S3Error, s3_client
from inference_runtime.s3.credentials import Credentials, CredentialSource
from inference_runtime.s3.signing import signed_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client as BotocoreClient
    from tests.runtime.storage_server import StorageServer

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
STRANGE = [
    "plain",
    "a b",
    "ü/€/😀",
    "a+b&c=d?e#f%20",
    "/slash//es/",
    "../up/./here",
    "~-_.!*'()",
    "line\nbreak",
    "\x7f",
]


@pytest.fixture
def server(environment: pytest.MonkeyPatch) -> Iterator[StorageServer]:
    environment.setattr(client, "MAX_RETRY_DELAY", 0)
    environment.setattr(client, "READ_TIMEOUT", PATIENCE)
    with storage_server() as server:
        environment.setenv("AWS_ENDPOINT_URL_S3", server.url)
        yield server


@given(
    key=KEYS,
    body=st.binary(max_size=50),
    token=st.one_of(st.just(""), VISIBLE),
    secret=VISIBLE,
    region=st.sampled_from(["eu-central-1", "cn-north-1"]),
    more=st.dictionaries(
        st.sampled_from(["range", "x-amz-meta-a", "content-md5", "if-match"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    ),
)
def test_it_signs_as_botocore_does(
    key: str, body: bytes, token: str, secret: str, region: str, more: dict[str, str]
) -> None:
    path = f"/{quote(key, safe='/~')}"
    headers = {**more, "host": "bucket.s3.amazonaws.com"}
    ours = signed_headers(
        "PUT",
        path,
        headers,
        body,
        credentials=Credentials("AKID", secret, token),
        region=region,
        now=NOW.timestamp(),
    )
    request = AWSRequest("PUT", f"http://bucket.s3.amazonaws.com{path}", headers=headers, data=body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: NOW)
        botocore.auth.S3SigV4Auth(BotocoreCredentials("AKID", secret, token or None), "s3", region).add_auth(request)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert ours == theirs


class Nothing(io.BytesIO):
    def stream(self) -> list[bytes]:
        return []


def of_botocore(bucket: str, key: str, region: str, **config: Any) -> tuple[str, str]:
    """Return the host and the path that botocore asks for an object."""
    botocore_client = botocore.session.get_session().create_client(
        "s3",
        region_name=region,
        aws_access_key_id="a",
        aws_secret_access_key="s",  # noqa: S106
        # Newer clients of AWS have regional endpoints everywhere, botocore still needs to be told.
        config=Config(s3={"us_east_1_regional_endpoint": "regional"}, **config),
    )
    found: list[str] = []

    def capture(request: Any, **_: object) -> AWSResponse:
        found.append(request.url)
        return AWSResponse(request.url, 404, {}, Nothing())

    botocore_client.meta.events.register("before-send.s3", capture)
    with pytest.raises(botocore_client.exceptions.ClientError):
        botocore_client.get_object(Bucket=bucket, Key=key)
    url = urlsplit(found[0])
    return url.netloc, url.path


def of_ours(bucket: str, key: str, region: str) -> tuple[str, str]:
    address, path = Locator(region).locate(bucket, key)
    assert (address.port, address.secure) == (443, True)
    return address.name, path


@pytest.fixture
def aws(environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """On AWS, and not in the embedded one."""
    environment.delenv("AWS_ENDPOINT_URL")
    return environment


@pytest.mark.parametrize("region", ["us-east-1", "ap-southeast-5", "cn-north-1", "us-gov-east-1"])
def test_it_goes_where_botocore_goes(aws: pytest.MonkeyPatch, region: str) -> None:
    assert of_ours("bucket", "key", region) == of_botocore("bucket", "key", region)


def test_it_knows_the_hosts_of_all_partitions(aws: pytest.MonkeyPatch) -> None:
    partitions = botocore.session.get_session().get_data("endpoints")["partitions"]
    assert len(partitions) > 5
    for partition in partitions:
        for region in partition["regions"]:
            host = f"bucket.s3.{region}.{partition['dnsSuffix']}"
            assert of_ours("bucket", "key", region) == (host, "/key")


@pytest.mark.parametrize("key", STRANGE)
@pytest.mark.parametrize("bucket", ["bucket", "with.dots"])
def test_it_asks_for_what_botocore_asks(aws: pytest.MonkeyPatch, bucket: str, key: str) -> None:
    assert of_ours(bucket, key, "eu-west-1") == of_botocore(bucket, key, "eu-west-1")


def test_it_takes_fips_endpoints(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    ours = of_ours("bucket", "key", "us-gov-west-1")
    assert ours == of_botocore("bucket", "key", "us-gov-west-1", use_fips_endpoint=True)


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://localhost:4566", "localhost:4566", "/bucket/key"),
        ("http://[::1]:4566/", "[::1]:4566", "/bucket/key"),
        ("https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com", None, "/bucket/key"),
        ("https://example.com:443/base/", "example.com", "/base/bucket/key"),
    ],
)
def test_a_configured_endpoint_has_buckets_in_the_path(
    aws: pytest.MonkeyPatch, url: str, host: str | None, path: str
) -> None:
    aws.setenv("AWS_ENDPOINT_URL_S3", url)
    address, found = Locator("eu-west-1").locate("bucket", "key")
    assert (address.name, found) == (host or urlsplit(url).netloc, path)
    aws.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert Locator("eu-west-1").locate("bucket", "key")[0].name.endswith("amazonaws.com")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:4566",
        "ftp://host",
        "http://",
        "http://[",
        "http://h:99999",
        "http://a..b",
        "http://ü.de",
        f"http://{'h' * 64}",
    ],
)
def test_an_endpoint_that_is_none_fails(aws: pytest.MonkeyPatch, url: str) -> None:
    aws.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(RetryableError, match="the endpoint of S3 is"):
        S3Client()


@pytest.mark.parametrize("bucket", ["", "b" * 300, "a/b", "evil.com#", "a@b", "Ä", "\ud800", "-a-", "a\nb"])
def test_a_bucket_that_is_none_fails(environment: pytest.MonkeyPatch, bucket: str) -> None:
    environment.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(RetryableError, match=r"is no name of a bucket|there can be no object"):
        S3Client().get(bucket, "key")


@pytest.mark.parametrize(("bucket", "key"), [("", "key"), ("bucket", "\udcff"), ("\udcff", "key")])
def test_a_name_that_cannot_be_fails_at_an_endpoint(environment: pytest.MonkeyPatch, bucket: str, key: str) -> None:
    with pytest.raises(RetryableError, match=r"is no name of a bucket|there can be no object"):
        S3Client().put(bucket, key, b"")


def test_a_process_has_one_client(environment: pytest.MonkeyPatch) -> None:
    assert s3_client() is s3_client()


def test_no_region_fails(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(RetryableError, match="AWS_REGION"):
        S3Client()


def test_it_reads_what_it_wrote(bucket: str, s3: BotocoreClient) -> None:
    objects, data = S3Client(), os.urandom(300_000)
    for number, key in enumerate(k for k in STRANGE if k.isprintable() and ".." not in k):
        body = data[: 1000 * number]
        objects.put(bucket, key, body)
        assert objects.get(bucket, key) == body
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body
    objects.put(bucket, "view", memoryview(data)[100:200])
    assert objects.get(bucket, "view") == data[100:200]


def test_it_reads_parts(bucket: str, s3: BotocoreClient) -> None:
    data = os.urandom(100_000)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    buffer = bytearray(1000)
    for start in (0, 1, 50_000, 99_000):
        S3Client().read_into(bucket, "k", start, memoryview(buffer), size=len(data))
        assert buffer == data[start : start + 1000]
    with pytest.raises(RetryableError, match="the object has 100000 bytes, expected 100001"):
        S3Client().read_into(bucket, "k", 0, memoryview(buffer), size=100_001)


def test_what_s3_refuses_fails_with_its_code(bucket: str) -> None:
    with pytest.raises(RetryableError, match=rf"cannot read s3://{bucket}/no: NoSuchKey: .+ \(status 404") as raised:
        S3Client().get(bucket, "no")
    assert isinstance(raised.value.__cause__, S3Error)
    assert raised.value.__cause__.code == "NoSuchKey"
    with pytest.raises(RetryableError, match="cannot write s3://no-such-bucket/k: NoSuchBucket"):
        S3Client().put("no-such-bucket", "k", b"")


def test_one_connection_serves_many_requests(server: StorageServer) -> None:
    objects = S3Client()
    for number in range(5):
        objects.put("b", f"{number}", b"x")
        objects.get("b", f"{number}")
        with pytest.raises(RetryableError):
            objects.get("b", "missing")
    assert len(server.connections) == 1


def test_threads_have_connections_of_their_own(server: StorageServer) -> None:
    server.objects["/b/k"] = b"data"
    objects, found = S3Client(), []
    threads = [threading.Thread(target=lambda: found.append(objects.get("b", "k"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"data"] * 20


def test_a_connection_that_was_closed_meanwhile_is_replaced(server: StorageServer) -> None:
    server.objects["/b/k"] = b"data"
    objects = S3Client()
    for _ in range(3):
        server.troubles = ["close"]
        assert objects.get("b", "k") == b"data"
    # Closed at the moment that it is used again: the request is sent once more, and counts as the first.
    objects.get("b", "k")
    server.troubles = ["reset", 503]
    assert objects.get("b", "k") == b"data"
    assert len(server.requests) == 7


def test_a_connection_is_not_used_again_after_a_freeze(server: StorageServer, environment: pytest.MonkeyPatch) -> None:
    server.objects["/b/k"] = b"data"
    objects = S3Client()
    objects.get("b", "k")
    clock = time.time
    environment.setattr(client.time, "time", lambda: clock() + client.IDLE_SECONDS + 1)
    objects.get("b", "k")
    assert len(server.connections) == 2
    objects.reset()
    objects.get("b", "k")
    assert len(server.connections) == 3


@pytest.mark.parametrize("trouble", [500, 503, 429, "SlowDown", "RequestTimeout", "hang", "reset", "cut"])
def test_trouble_is_tried_twice(server: StorageServer, environment: pytest.MonkeyPatch, trouble: int | str) -> None:
    if trouble == "hang":
        environment.setattr(client, "READ_TIMEOUT", 1)
    server.objects["/b/k"] = b"data"
    server.troubles = [trouble]
    assert S3Client().get("b", "k") == b"data"
    assert len(server.requests) == 2


@pytest.mark.parametrize("trouble", [503, "hang", "reset", "cut"])
def test_trouble_that_stays_fails(server: StorageServer, environment: pytest.MonkeyPatch, trouble: int | str) -> None:
    if trouble == "hang":
        environment.setattr(client, "READ_TIMEOUT", 0.5)
    server.objects["/b/k"] = b"data"
    server.troubles = [trouble] * 2
    with pytest.raises(RetryableError, match="cannot read s3://b/k: "):
        S3Client().get("b", "k")
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidArgument"])
def test_a_refusal_is_not_tried_again_and_fails(server: StorageServer, code: str) -> None:
    server.troubles = [code]
    with pytest.raises(RetryableError, match=code):
        S3Client().put("b", "k", b"")
    assert len(server.requests) == 1


def test_a_part_that_is_cut_off_is_read_again(server: StorageServer) -> None:
    server.objects["/b/k"] = bytes(range(100))
    server.troubles = ["cut"]
    buffer = bytearray(50)
    S3Client().read_into("b", "k", 10, memoryview(buffer), size=100)
    assert buffer == bytes(range(10, 60))


def test_bytes_of_another_size_that_come_late_fail_and_are_no_answer_to_the_next_request(server: StorageServer) -> None:
    server.objects = {"/b/other": b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nforeign", "/b/k": b"data"}
    server.troubles = ["late"]
    objects, buffer = S3Client(), bytearray(52)
    with pytest.raises(RetryableError, match="expected 100"):
        objects.read_into("b", "other", 0, memoryview(buffer), size=100)
    assert objects.get("b", "k") == b"data"


def test_s3_that_cannot_be_reached_fails(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(client, "MAX_RETRY_DELAY", 0)
    with storage_server() as server:
        environment.setenv("AWS_ENDPOINT_URL_S3", server.url)
    with pytest.raises(RetryableError, match="ConnectionRefusedError"):
        S3Client().get("b", "k")


def test_tls_is_verified(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(client, "MAX_RETRY_DELAY", 0)
    with storage_server(tls=True) as server:
        environment.setenv("AWS_ENDPOINT_URL_S3", server.url)
        with pytest.raises(RetryableError, match="CERTIFICATE_VERIFY_FAILED"):
            S3Client().put("b", "k", b"data")
        assert server.requests == []
        environment.setenv("AWS_CA_BUNDLE", str(TLS / "certificate.pem"))
        objects = S3Client()
        objects.put("b", "k", b"data")
        assert objects.get("b", "k") == b"data"


class Endpoint:
    """The endpoint that has a container's credentials."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.lifetime = 3600.0
        self.broken = False
        self.url = ""

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        self.asked.append((path, authorization))
        if self.broken:
            return 500, b""
        expiration = datetime.datetime.fromtimestamp(time.time() + self.lifetime, datetime.UTC)
        found = {
            "AccessKeyId": f"KEY{len(self.asked)}",
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": expiration.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        return 200, json.dumps(found).encode()


@pytest.fixture
def container(environment: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A function that was restored from a snapshot: its credentials are at an endpoint."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = endpoint.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.delenv(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint.url = f"http://localhost:{server.server_port}"
        environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint.url}/credentials?a=b")
        environment.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "sesame")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield endpoint
        server.shutdown()


def test_a_container_asks_its_endpoint_once(container: Endpoint) -> None:
    source = CredentialSource()
    assert {source.get() for _ in range(3)} == {Credentials("KEY1", "secret", "token")}
    assert container.asked == [("/credentials?a=b", "sesame")]
    assert "secret" not in repr(source.get())


def test_credentials_are_replaced_before_they_expire(container: Endpoint) -> None:
    source = CredentialSource()
    container.lifetime = credentials.REFRESH_SECONDS - 1
    assert [source.get().key_id for _ in range(2)] == ["KEY1", "KEY2"]
    # As long as they are valid, an endpoint that is out of order does no harm.
    container.broken = True
    assert source.get().key_id == "KEY2"


def test_an_endpoint_that_is_out_of_order_fails(container: Endpoint) -> None:
    container.broken = True
    with pytest.raises(RetryableError, match="gives no credentials: OSError: status 500"):
        CredentialSource().get()
    assert len(container.asked) == 2


def test_s3_gets_other_credentials_after_it_refused_some(container: Endpoint, server: StorageServer) -> None:
    server.objects["/b/k"] = b"data"
    server.troubles = ["ExpiredToken"]
    assert S3Client().get("b", "k") == b"data"
    keys = [headers["authorization"].partition("Credential=")[2][:4] for _, _, headers in server.requests]
    assert keys == ["KEY1", "KEY2"]
    assert server.requests[0][2]["x-amz-security-token"] == "token"


def test_the_token_may_be_in_a_file(container: Endpoint, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from a file\n")
    environment.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    environment.setattr(credentials, "_RELATIVE_HOST", container.url)
    environment.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/relative")
    CredentialSource().get()
    assert container.asked == [("/relative", "from a file")]


@pytest.mark.parametrize("url", ["http://example.com/credentials", "http://10.0.0.1/"])
def test_credentials_in_clear_text_from_elsewhere_fail(container: Endpoint, environment: Any, url: str) -> None:
    environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    with pytest.raises(RetryableError, match="neither this machine nor has TLS"):
        CredentialSource().get()


@pytest.mark.parametrize("secret", ["hid\nden", "hid\r\nden", "hidden\u00fc", "hidden\udcff"])
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_secret_that_cannot_be_sent_fails_without_being_shown(
    environment: pytest.MonkeyPatch, server: StorageServer, name: str, secret: str
) -> None:
    environment.setenv(name, secret)
    with pytest.raises(RetryableError, match=f"{name} must be a single line") as raised:
        S3Client().put("b", "k", b"")
    assert "hid" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("in_file", [False, True])
def test_a_token_that_cannot_be_sent_fails_without_being_shown(
    container: Endpoint, environment: pytest.MonkeyPatch, tmp_path: Path, in_file: bool
) -> None:
    token = tmp_path / "token"
    token.write_text("hid\nden")
    if in_file:
        environment.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
    else:
        environment.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", token.read_text())
    with pytest.raises(RetryableError, match="AWS_CONTAINER_AUTHORIZATION_TOKEN") as raised:
        CredentialSource().get()
    assert "hid" not in "".join(traceback.format_exception(raised.value))
    environment.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", raising=False)
    environment.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", " sesame\n")
    CredentialSource().get()
    assert container.asked[-1][1] == "sesame"


def test_no_credentials_fail(container: Endpoint, environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    with pytest.raises(RetryableError, match="no AWS credentials"):
        CredentialSource().get()


def test_it_imports_nothing_but_the_standard_library(python: Callable[[str], str]) -> None:
    loaded = python("import sys, inference_runtime.s3.client; print(*sys.modules)").split()
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names <= {"inference_runtime", "__main__"}


@pytest.fixture
def python() -> Callable[[str], str]:
    """Run a program in a fresh process, and return what it prints."""
    root = Path(client.__file__).parents[2]

    def run(program: str) -> str:
        command = [sys.executable, "-S", "-c", program]
        done = subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True)
        return done.stdout

    return run
