"""Only programs that have the key can call the embedded AWS: no web page, no other user, on no port."""

from __future__ import annotations

import functools
import hashlib
import http.client
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import ministack
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from tests.browser import chromium
from tests.constructs.local.listeners import listeners
from tests.constructs.local.processes import commands
from tests.constructs.local.templates import create
from tests.constructs.local.test_emulator import invoke, make_function

from cdk_inference.local import aws
from cdk_inference.local.emulator.emulator import _LAUNCHER, Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(ministack.__file__).parent
TOKENS = ("/_ministack/cfn-response/", "/_ministack/cfn-signal/")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
ECHO = "def handler(event, context):\n    return 'done'\n"
CREATE = json.dumps({"FunctionName": "owned", "Role": "arn:aws:iam::000000000000:role/any", "Code": {"ZipFile": ""}})


def helpers() -> list[str]:
    """Every path that MiniStack answers besides AWS's own, and ours."""
    literal = re.compile(r"""["'](/(?:_[a-z]+|latest|health)(?:/[\w./-]*)?)""")
    found = {path for file in SOURCE.rglob("*.py") for path in literal.findall(file.read_text())}
    assert {"/_ministack/reset", "/_ministack/config", "/latest/api/token", *TOKENS} <= found
    ours = set(re.findall(r'"(/_cdk-inference/[\w-]+)"', _LAUNCHER.read_text()))
    assert {aws.SERVICE_CREDENTIALS, aws.FAULTS, aws.ENVIRONMENTS} <= ours
    return sorted(found | ours)


PATHS = [*helpers(), "/", "/?Action=CreateQueue&QueueName=owned", "/owned", "/owned/key", "/2015-03-31/functions"]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@pytest.fixture(scope="module")
def port(emulator: Emulator) -> int:
    return int(emulator.endpoint.rpartition(":")[2])


@pytest.fixture(scope="module")
def function(emulator: Emulator) -> str:
    """A function whose process runs, with a session of its role."""
    name = make_function(emulator.endpoint, ECHO)
    assert json.loads(aws.client(emulator.endpoint, "lambda").invoke(FunctionName=name)["Payload"].read()) == "done"
    return name


def ask(port: int, method: str, path: str, headers: dict[str, str], body: str = "") -> tuple[int, list[str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        return ask_on(connection, method, path, headers, body)


def ask_on(
    connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: str
) -> tuple[int, list[str]]:
    connection.request(method, path, body or None, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, [name.lower() for name, _ in answer.getheaders()]


def assert_nothing_is_owned(emulator: Emulator) -> None:
    endpoint = emulator.endpoint
    made = [made["FunctionName"] for made in aws.client(endpoint, "lambda").list_functions()["Functions"]]
    made += aws.client(endpoint, "sqs").list_queues().get("QueueUrls", [])
    made += [bucket["Name"] for bucket in aws.client(endpoint, "s3").list_buckets()["Buckets"]]
    assert [name for name in made if "owned" in name] == []


@pytest.mark.parametrize("key", [None, "", "test", "000000000000", "AKIAIOSFODNN7EXAMPLE"])
def test_a_call_without_a_key_of_this_instance_fails_on_every_path(
    emulator: Emulator, port: int, function: str, key: str | None
) -> None:
    scope = f"{key}/20260101/us-east-1/s3/aws4_request"
    signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'0' * 64}"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for path in PATHS:
            for method in METHODS:
                if method == "PUT" and path in TOKENS:
                    continue  # these take whoever has a token
                status, names = ask_on(connection, method, path, {} if key is None else signed, CREATE)
                assert (status, method, path) == (403, method, path)
                assert [name for name in names if name.startswith("access-control")] == []
    assert_nothing_is_owned(emulator)


def test_a_wrong_secret_fails(emulator: Emulator) -> None:
    key = aws.root_credentials(emulator.endpoint)["AccessKeyId"]
    thief = aws.role_clients(emulator.endpoint, {"AccessKeyId": key, "SecretAccessKey": "guessed"}, ["s3", "sts"])
    with pytest.raises(ClientError, match="does not match"):
        thief["s3"].list_buckets()
    with pytest.raises(ClientError, match="does not match"):
        thief["sts"].get_caller_identity()


@pytest.mark.parametrize("path", ["/owned/key", aws.FAULTS, "/_ministack/reset"])
def test_a_presigned_url_without_the_secret_fails(emulator: Emulator, port: int, path: str) -> None:
    key = aws.root_credentials(emulator.endpoint)["AccessKeyId"]
    credential = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={key}/20260101/us-east-1/s3/aws4_request"
    rest = f"X-Amz-Date=20260101T000000Z&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature={'0' * 64}"
    assert ask(port, "GET", f"{path}?AWSAccessKeyId={key}&Signature=AAAA&Expires=99999999999", {})[0] == 403
    assert ask(port, "GET", f"{path}?{credential}&{rest}", {})[0] == 403


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_presigned_url_works(emulator: Emulator, version: str) -> None:
    credentials = aws.root_credentials(emulator.endpoint)
    signer = boto3.client(
        "s3",
        endpoint_url=emulator.endpoint,
        region_name=aws.REGION,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        config=Config(signature_version=version),
    )
    s3 = aws.client(emulator.endpoint, "s3")
    s3.create_bucket(Bucket=f"presigned-{version}")
    s3.put_object(Bucket=f"presigned-{version}", Key="a b/ü+", Body=b"as it was")
    url = signer.generate_presigned_url("get_object", Params={"Bucket": f"presigned-{version}", "Key": "a b/ü+"})
    assert aws.open_directly(url).read() == b"as it was"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        aws.open_directly(url.replace("a%20b", "another"))


def signed_call(emulator: Emulator, headers: dict[str, str]) -> int:
    """Send a signed GetCallerIdentity with more headers, and return the status."""
    root = aws.root_credentials(emulator.endpoint)
    body, kind = "Action=GetCallerIdentity&Version=2011-06-15", "application/x-www-form-urlencoded"
    request = AWSRequest("POST", f"{emulator.endpoint}/", {"Content-Type": kind, **headers}, body)
    SigV4Auth(Credentials(root["AccessKeyId"], root["SecretAccessKey"]), "sts", aws.REGION).add_auth(request)
    return ask(int(emulator.endpoint.rpartition(":")[2]), "POST", "/", dict(request.headers), body)[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example"},
    ],
)
def test_a_web_page_or_a_foreign_host_fails_even_with_the_key(emulator: Emulator, headers: dict[str, str]) -> None:
    assert signed_call(emulator, {}) == 200
    assert signed_call(emulator, headers) == 403


@pytest.mark.parametrize("path", TOKENS)
def test_answers_of_custom_resources_need_a_token_and_no_page(port: int, path: str) -> None:
    assert ask(port, "PUT", f"{path}guessed", {"Origin": "https://evil.example"}, "{}")[0] == 403
    assert ask(port, "PUT", f"{path}guessed", {"Host": "evil.example"}, "{}")[0] == 403
    assert ask(port, "POST", f"{path}guessed", {}, "{}")[0] == 403


def test_a_custom_resource_answers_with_its_token(emulator: Emulator) -> None:
    code = """
        import json, urllib.request
        def handler(event, context):
            facts = {name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")}
            answer = {"Status": "SUCCESS", "PhysicalResourceId": "made", "Data": {"Value": "as it said"}, **facts}
            body = json.dumps(answer).encode()
            urllib.request.urlopen(urllib.request.Request(event["ResponseURL"], body, method="PUT"))
        """
    name = make_function(emulator.endpoint, code)
    found = aws.client(emulator.endpoint, "lambda").get_function_configuration(FunctionName=name)
    resource = {"Type": "Custom::Any", "Properties": {"ServiceToken": found["FunctionArn"]}}
    output = {"Value": {"Fn::GetAtt": ["Any", "Value"]}}
    cloudformation = aws.client(emulator.endpoint, "cloudformation")
    create(cloudformation, "Custom", {"Resources": {"Any": resource}, "Outputs": {"Said": output}})
    [stack] = cloudformation.describe_stacks(StackName="Custom")["Stacks"]
    assert stack["Outputs"][0]["OutputValue"] == "as it said"


def test_a_session_derived_from_a_functions_name_fails(emulator: Emulator, function: str) -> None:
    found = aws.client(emulator.endpoint, "lambda").get_function_configuration(FunctionName=function)
    digest = hashlib.sha256(f"{found['FunctionArn']}:{found['Role']}".encode()).hexdigest()  # as MiniStack does
    derived = {
        "AccessKeyId": f"ASIA{digest[:16].upper()}",
        "SecretAccessKey": hashlib.sha256(f"secret:{digest}".encode()).hexdigest(),
        "SessionToken": hashlib.sha256(f"token:{digest}".encode()).hexdigest(),
    }
    with pytest.raises(ClientError, match="must be signed with a key of this embedded AWS"):
        aws.role_clients(emulator.endpoint, derived, ["sts"])["sts"].get_caller_identity()


def test_the_key_is_in_a_private_file_and_nowhere_else(emulator: Emulator, function: str) -> None:
    key, file = aws.key_of(emulator.endpoint), emulator.state / "key.json"
    assert json.loads(file.read_text()) == {"id": key.id, "secret": key.secret}
    assert file.stat().st_mode & 0o777 == 0o600
    assert emulator.state.stat().st_mode & 0o777 == 0o700
    for seen in (emulator.log.read_text(), *commands(), repr(key)):
        assert key.secret not in seen
    seen = make_function(emulator.endpoint, "import os\ndef handler(event, context):\n    return dict(os.environ)\n")
    assert key.id not in str(invoke(emulator.endpoint, seen))


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_it_listens_on_one_port_of_the_loopback_interface(emulator: Emulator, port: int, function: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        bootstrap = zipfile.ZipInfo("bootstrap")
        bootstrap.external_attr = 0o755 << 16
        archive.writestr(bootstrap, "#!/bin/sh\nsleep 600\n")
    functions = aws.client(emulator.endpoint, "lambda")
    functions.create_function(
        FunctionName="custom",
        Role=functions.get_function_configuration(FunctionName=function)["Role"],
        Runtime="provided.al2023",
        Handler="bootstrap",
        Code={"ZipFile": packed.getvalue()},
    )
    answer = functions.invoke(FunctionName="custom")
    assert "FunctionError" in answer
    assert "listens on one port only" in answer["Payload"].read().decode() + emulator.log.read_text()
    assert listeners(emulator._process.pid) == {("127.0.0.1", port)}


INTRUDER = """
import json, sys, urllib.error, urllib.request
ports, paths, files, body = json.loads(sys.argv[1])
tried, got_in = 0, []
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for port in ports:
    for path in paths:
        for data in (None, body.encode()):
            tried += 1
            try:
                answer = opener.open(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data), timeout=60)
                got_in.append([path, answer.status])
            except urllib.error.HTTPError as error:
                if error.code != 403:
                    got_in.append([path, error.code])
for file in files:
    try:
        got_in.append([file, open(file).read()])
    except PermissionError:
        tried += 1
print(json.dumps([tried, got_in]))
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_another_user_of_this_machine_fails(emulator: Emulator, function: str) -> None:
    python = next((name for name in ("/usr/bin/python3", sys.executable) if Path(name).exists()), "")
    become = functools.partial(subprocess.run, user="nobody", group=65534, extra_groups=[], capture_output=True)
    if os.geteuid() or become([python, "-I", "-c", ""], cwd="/", check=False).returncode:
        pytest.skip("needs root, who may become another user, and a Python that this user may run")
    leader = emulator._process.pid
    ports = sorted(port for _, port in listeners(leader))
    assert ports
    files = [str(emulator.state / "key.json"), str(emulator.log), f"/proc/{leader}/environ", f"/proc/{leader}/mem"]
    given = json.dumps([ports, PATHS, files, CREATE])
    done = become([python, "-I", "-c", INTRUDER, given], cwd="/", text=True, check=True)
    assert json.loads(done.stdout) == [2 * len(PATHS) * len(ports) + len(files), []]
    assert_nothing_is_owned(emulator)


EVIL = "evil.example"
PAGE = """<!doctype html><title>evil</title><iframe name=hidden></iframe>
<script>
const target = new URLSearchParams(location.search).get("target");
const paths = %s, body = %s;
async function attack() {
  let read = [];
  for (const path of paths) {
    for (const mode of ["no-cors", "cors"]) {
      for (const method of ["GET", "POST"]) {
        const init = {mode, method};
        if (method == "POST") init.body = body;  // text/plain: no preflight
        try {
          const answer = await fetch(target + path, init);
          if (answer.ok) read.push([path, mode, method, answer.status]);
        } catch (error) {}
      }
    }
    navigator.sendBeacon(target + path, body);
  }
  for (const method of ["PUT", "DELETE"]) try { await fetch(target + "/owned", {method}); } catch (error) {}
  for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
    const form = document.createElement("form");
    Object.assign(form, {method: "POST", target: "hidden", action: target + "/", enctype});
    for (const [name, value] of [["Action", "CreateQueue"], ["QueueName", "owned"]]) {
      const input = document.createElement("input");
      Object.assign(input, {name, value});
      form.append(input);
    }
    document.body.append(form);
    const frame = document.querySelector("iframe");
    const loaded = new Promise(resolve => frame.addEventListener("load", resolve, {once: true}));
    form.submit();
    await loaded;
  }
  await new Promise(resolve => {
    const socket = new WebSocket(target.replace("http", "ws") + "/_aws/execute-api/any/any");
    socket.onopen = () => { read.push("websocket"); resolve(); };
    socket.onerror = resolve;
  });
  return read;
}
</script>"""


@pytest.mark.xdist_group("browser")
def test_a_web_page_fails_on_every_port(emulator: Emulator, port: int, function: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(PAGE % (json.dumps(PATHS), json.dumps(CREATE)))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    ports = {port for _, port in listeners(emulator._process.pid)} if Path("/proc/net/tcp").exists() else {port}
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        chromium(f"--host-resolver-rules=MAP {EVIL} 127.0.0.1") as browser,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        statuses: list[int] = []
        asked = re.compile(rf":{port}/(?!page)")
        page.on("response", lambda answer: statuses.append(answer.status) if asked.search(answer.url) else None)
        for name in ("127.0.0.1", "localhost", EVIL):
            for target in ports:
                page.goto(f"http://{name}:{server.server_port}/index.html?target=http://127.0.0.1:{target}")
                assert page.evaluate("attack()") == []
        # The page's own name leads to the embedded AWS: the browser takes both for the same site.
        for target in ports:
            page.route(re.compile("/page"), lambda route: route.fulfill(path=tmp_path / "index.html"))
            page.goto(f"http://{EVIL}:{target}/page?target=http://{EVIL}:{target}")
            assert page.evaluate("attack()") == []
        page.unroute_all(behavior="wait")
        assert page.goto(f"http://127.0.0.1:{port}/").status == 403
        server.shutdown()
    assert len(statuses) > 8 * len(PATHS)
    assert set(statuses) == {403}
    assert_nothing_is_owned(emulator)
