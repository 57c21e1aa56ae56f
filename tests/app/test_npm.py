"""Packages of npm: fetched from a registry on the loopback address, checked, kept and unpacked."""

import base64
import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from hub_models.app import npm
from hub_models.app.npm import NPM_PACKAGES, NpmPackage, fetched, vendor


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a registry serves; the cache is empty."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield folder
        server.shutdown()


def published(registry: Path, name: str, files: dict[str, bytes], taken: dict[str, str]) -> NpmPackage:
    data = packed(files)
    path = registry / name / "-" / f"{name}-1.2.3.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return NpmPackage(name, "1.2.3", base64.b64encode(hashlib.sha512(data).digest()).decode(), taken)


def test_package_is_fetched_once(registry: Path) -> None:
    package = published(registry, "some", {"index.js": b"1"}, {"index.js": "some.js"})
    data = fetched(package)
    assert package.cached.read_bytes() == data and package.cached.name == "some-1.2.3.tgz"
    (registry / "some" / "-" / "some-1.2.3.tgz").unlink()
    assert fetched(package) == data
    package.cached.write_bytes(b"damaged")  # and is fetched again
    with pytest.raises(ConnectionError, match="some 1.2.3 of npm .*404.*NPM_CONFIG_REGISTRY"):
        fetched(package)


def test_other_bytes_than_the_pinned_ones_are_refused(registry: Path) -> None:
    package = replace(published(registry, "some", {"index.js": b"1"}, {}), integrity="AAAA")
    with pytest.raises(ValueError, match="some 1.2.3 of the registry is not the file"):
        fetched(package)
    assert not package.cached.exists()


def test_registry_that_does_not_answer_is_named_by_its_variable(registry: Path, monkeypatch) -> None:
    for address in ("http://127.0.0.1:9", "nowhere"):
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
        with pytest.raises(ConnectionError, match="set NPM_CONFIG_REGISTRY"):
            fetched(NPM_PACKAGES[0])


def test_needed_files_become_modules_of_a_browser(registry: Path, monkeypatch, tmp_path: Path) -> None:
    files = {
        "LICENSE": b"MIT of some",
        "lib/index.js": b"import { a } from 'fflate';\nimport b from './b/c.js';",
        "lib/b/c.js": b"",
        "lib/index.d.ts": b"types",
        "library.js": b"other",
    }
    packages = (
        published(registry, "fast-png", files, {"lib": "fast-png"}),
        published(registry, "dicom-parser", {"x.min.js": b"module.exports = 1;"}, {"x.min.js": "dicom-parser.js"}),
    )
    monkeypatch.setattr(npm, "NPM_PACKAGES", packages)
    folder = tmp_path / "vendor"
    vendor(folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"fast-png/index.js", "fast-png/b/c.js", "dicom-parser.js", "licences.txt"}
    assert (folder / "fast-png" / "index.js").read_text().splitlines()[0] == "import { a } from '../fflate.js';"
    assert (folder / "dicom-parser.js").read_text().endswith("module.exports = 1;\nexport default module.exports;\n")
    licences = (folder / "licences.txt").read_text()
    assert "fast-png 1.2.3, licence MIT\n\nMIT of some" in licences and "dicom-parser 1.2.3" in licences


def test_a_member_that_is_no_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as packed:
        member = tarfile.TarInfo("package/lib")
        member.type = tarfile.DIRTYPE
        packed.addfile(member)
    with tarfile.open(path) as packed, pytest.raises(ValueError, match="package/lib is not a file"):
        npm._read(packed, packed.getmember("package/lib"))
