"""apt's configuration is read, and apt downloads by it: from an archive of one package on this machine."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from verify.debian import Package, Source, UnavailableError, parse_deb822, parse_one_line

from verify import debian

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt on this machine")
needs_gpg = pytest.mark.skipif(shutil.which("gpg") is None, reason="there is no gpg on this machine")

DEB822 = """\
# The system's own release.
Types: deb
# A comment between two fields.
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb deb-src
URIs: http://one.example/debian http://two.example/debian
Suites:
 bookworm
 bookworm-backports
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEYCQjIxYJKwYBBAHaRw8BAQdA
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

types: deb-src
uris: http://sources.example/debian
suites: bookworm
components: main
"""
ONE_LINE = """\
# deb http://comment.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # the release
deb [ arch=amd64,arm64 signed-by=/a.gpg,/b.gpg ] https://keys.example/debian bookworm-updates main
  deb\thttp://tabs.example/debian\tbookworm\tmain
deb-src http://sources.example/debian bookworm main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
deb http://flat.example/ ./
debug http://typo.example/debian bookworm main
"""


def test_deb822_files_are_read() -> None:
    key = DEB822[DEB822.index("\n -----BEGIN") : DEB822.index("\n\nEnabled")]
    backports = ("bookworm", "bookworm-backports")
    assert parse_deb822(DEB822) == [
        Source(
            "http://mirror.example/debian",
            ("bookworm", "bookworm-updates"),
            ("main", "contrib"),
            "/usr/share/keyrings/debian.gpg",
        ),
        Source("http://one.example/debian", backports, ("main",), key),
        Source("http://two.example/debian", backports, ("main",), key),
    ]


def test_one_line_files_are_read() -> None:
    assert parse_one_line(ONE_LINE) == [
        Source("http://mirror.example/debian", ("bookworm",), ("main", "contrib")),
        Source("https://keys.example/debian", ("bookworm-updates",), ("main",), "/a.gpg /b.gpg"),
        Source("http://tabs.example/debian", ("bookworm",), ("main",)),
        Source("http://flat.example/", ("./",), ()),
    ]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give apt a separate configuration, and return its folder."""
    folder = tmp_path / "etc"
    (folder / "sources.list.d").mkdir(parents=True)
    configuration = tmp_path / "apt.conf"
    configuration.write_text(f'Dir::Etc "{folder}";\n')
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    return folder


@needs_apt
def test_all_files_of_apt_are_read_and_the_release_goes_first(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_codename", lambda: "bookworm")
    (apt / "sources.list").write_text(
        "deb http://other.example/packages stable main\ndeb http://security.example/debian bookworm-security main\n"
    )
    (apt / "sources.list.d" / "debian.sources").write_text(DEB822)
    (apt / "sources.list.d" / "more.list").write_text("deb http://vendor.example/repo nodistro extras\n")
    (apt / "sources.list.d" / "old.list.save").write_text("deb http://saved.example/debian bookworm main\n")
    found = [source.uri for source in debian.sources()]
    assert found == [
        "http://mirror.example/debian",
        "http://one.example/debian",
        "http://two.example/debian",
        "http://other.example/packages",
    ]


@needs_apt
@pytest.mark.parametrize("between", ["\n", " \t\n", "# a comment\n\n"])
def test_apt_reads_the_same(apt: Path, between: str) -> None:
    stanza = "Types: deb\nURIs: http://{} http://{}-too\nSuites: stable\nComponents: main\n"
    first, second = stanza.format("one.example", "one.example"), stanza.format("two.example", "two.example")
    (apt / "sources.list.d" / "some.sources").write_text(f"{first}{between}Enabled: no\n{second}\n{second}")
    (apt / "sources.list").write_text("".join(line for line in ONE_LINE.splitlines(True) if "tabs.example" in line))
    listed = subprocess.run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = {uri.rstrip("/") for uri in listed.stdout.split()}
    assert "http://tabs.example/debian" in theirs
    assert {source.uri for source in debian.sources()} == theirs


@needs_apt
def test_a_system_without_an_archive_is_told_so(apt: Path) -> None:
    with pytest.raises(UnavailableError, match="apt on this system knows no archive"):
        debian.sources()


def test_a_system_without_apt_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="qemu comes as a Debian package, and this system has no apt-get"):
        debian.unpacked("qemu", [Package("qemu-user")])


class Archive:
    """An archive of Debian packages in a folder, with the suite ``testing``, signed by a new key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The agent's socket lies there, and the path of a socket is short.
        self._temporary = tempfile.TemporaryDirectory(prefix="gpg-")
        self._home = Path(self._temporary.name)
        self._gpg("--quick-generate-key", "--passphrase", "", "archive@example.org", "ed25519", "sign", "never")
        self.keyring = folder / "archive.gpg"
        self.keyring.write_bytes(self._gpg("--export"))

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--homedir", str(self._home), "--batch", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def publish(self, *versions: str) -> None:
        """Publish the package ``emulator``, which depends on another one."""
        pool, index = self._folder / "pool", self._folder / "dists" / "testing" / "main" / "binary-amd64"
        pool.mkdir(exist_ok=True)
        index.mkdir(parents=True, exist_ok=True)
        entries = [self._package(pool, "library", "1.0", "")]
        entries += [self._package(pool, "emulator", version, "library") for version in versions]
        packages = "\n".join(entries).encode()
        (index / "Packages").write_bytes(packages)
        (index / "Packages.gz").write_bytes(gzip.compress(packages))
        names = ("Packages", "Packages.gz")
        sums = "".join(
            f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/{name}\n"
            for name in names
            for data in [(index / name).read_bytes()]
        )
        release = f"Suite: testing\nCodename: testing\nArchitectures: amd64\nComponents: main\nSHA256:\n{sums}"
        unsigned = self._folder / "Release"
        unsigned.write_text("Date: Sat, 28 Nov 2026 08:00:00 UTC\n" + release)
        target = self._folder / "dists" / "testing" / "InRelease"
        target.unlink(missing_ok=True)
        self._gpg("--clearsign", "--output", str(target), str(unsigned))

    @staticmethod
    def _package(pool: Path, name: str, version: str, depends: str) -> str:
        root = pool / f"{name}-{version}"
        (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (root / "usr" / "bin").mkdir(parents=True, exist_ok=True)
        (root / "usr" / "bin" / name).write_text(f"{name} {version}\n")
        (root / "usr" / "bin" / f"{name}-extra").write_text("not wanted\n")
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody <a@example.org>\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += "Description: for a test\n"
        (root / "DEBIAN" / "control").write_text(control)
        file = pool / f"{name}_{version}_amd64.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, file], capture_output=True, check=True)
        data = file.read_bytes()
        return f"{control}Filename: pool/{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"


@pytest.fixture
def archive(tmp_path: Path, apt: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Return an archive that is the only one in apt's configuration; the cache is a new one."""
    made = Archive(tmp_path / "archive")
    source = f"Types: deb\nURIs: file:{tmp_path / 'archive'}\nSuites: stable\nComponents: main\n"
    (apt / "sources.list.d" / "own.sources").write_text(f"{source}Signed-By: {made.keyring}\n")
    monkeypatch.setenv("CDK_INFERENCE_CACHE", str(tmp_path / "cache"))
    return made


def emulator(at_least: str | None = None, members: tuple[str, ...] = ("*",)) -> Path:
    return debian.unpacked("emulator", [Package("emulator", at_least)], architecture="amd64", members=members)


@needs_apt
@needs_gpg
def test_a_package_and_its_dependencies_are_unpacked_once(
    archive: Archive, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    archive.publish("1:11.1+ds-1", "1:10.0+ds-1")
    root = emulator()
    assert (root / "usr/bin/emulator").read_text() == "emulator 1:11.1+ds-1\n"
    assert (root / "usr/bin/library").read_text() == "library 1.0\n"
    shutil.rmtree(tmp_path / "archive")
    assert emulator() == root
    assert capfd.readouterr().err.count("downloading emulator") == 1


@needs_apt
@needs_gpg
def test_only_what_is_wanted_is_unpacked(archive: Archive) -> None:
    archive.publish("1:11.1+ds-1")
    root = emulator(members=("usr/bin/emulator",))
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["emulator"]


@needs_apt
@needs_gpg
def test_a_newer_minimum_replaces_what_is_cached(archive: Archive) -> None:
    archive.publish("1:7.2+dfsg-7")
    emulator(at_least="1:7")
    with pytest.raises(UnavailableError, match=r"testing: emulator is 1:7\.2\+dfsg-7, which is older than 1:11"):
        emulator(at_least="1:11")
    archive.publish("1:11.1+ds-1")
    assert (emulator(at_least="1:11") / "usr/bin/emulator").read_text() == "emulator 1:11.1+ds-1\n"


@needs_apt
@needs_gpg
def test_a_package_that_is_missing_is_named(archive: Archive) -> None:
    archive.publish("1:11.1+ds-1")
    with pytest.raises(UnavailableError, match="mirror of this system has no other for amd64"):
        debian.unpacked("other", [Package("other")], architecture="amd64")


@needs_apt
@needs_gpg
def test_what_another_key_signed_fails(archive: Archive, tmp_path: Path) -> None:
    archive.publish("1:11.1+ds-1")
    archive.keyring.write_bytes(Archive(tmp_path / "stranger").keyring.read_bytes())
    with pytest.raises(UnavailableError, match=r"testing: apt-get failed: .*is not signed"):
        emulator()


@needs_apt
@needs_gpg
def test_a_package_that_was_changed_afterwards_fails(archive: Archive, tmp_path: Path) -> None:
    archive.publish("1:11.1+ds-1")
    file = next((tmp_path / "archive" / "pool").glob("emulator_*.deb"))
    file.write_bytes(file.read_bytes()[:-8] + b"tampered")
    with pytest.raises(UnavailableError, match="testing: apt-get failed"):
        emulator()
    assert not (tmp_path / "cache" / "emulators" / "emulator-amd64").exists()
