"""JavaScript libraries of the static page: packages of npm, pinned by version and digest, fetched once."""

import base64
import hashlib
import io
import os
import re
import tarfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hub_models.files import write_bytes

REGISTRY_VARIABLE = "NPM_CONFIG_REGISTRY"  # npm's own; the value is the address of another registry
NPM_REGISTRY = "https://registry.npmjs.org"
FETCH_SECONDS = 60  # without an answer


@dataclass(frozen=True)
class NpmPackage:
    """A package of npm.

    Attributes:
        name, version, license: of the package.
        integrity: `dist.integrity` of the registry, the SHA-512 of the package's file in base64.
        files: where its files go, below `vendor/`; a folder's files all go where the folder goes.
    """

    name: str
    version: str
    integrity: str
    files: Mapping[str, str]
    license: str = "MIT"

    @property
    def cached(self) -> Path:
        """Where its file is kept between builds."""
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return root / "chest-xray-masks" / f"{self.name}-{self.version}.tgz"


NPM_PACKAGES = (
    NpmPackage(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {
            f"dist/{name}": f"onnxruntime-web/{name}"
            for name in (
                "ort.wasm.bundle.min.mjs",
                "ort-wasm-simd-threaded.wasm",
                "ort.webgpu.bundle.min.mjs",
                "ort-wasm-simd-threaded.asyncify.wasm",
            )
        },
    ),
    NpmPackage(
        "fast-png",
        "8.0.0",
        "gCysNasJ8KEMgfdYIKd/wTDo6ENK1PWT0RJO7O+0pgmuHPw2O6tA1WvdxFRJoLf9V8yFYpG0FA1YgI8X97OhJA==",
        {"lib": "fast-png"},
    ),
    NpmPackage(
        "iobuffer",
        "6.0.1",
        "SZWYkWNfjIXIBYSDpXDYIgshqtbOPsi4lviawAEceR1Kqk+sHDlcQjWrzNQsii80AyBY0q5c8HCTNjqo74ul+Q==",
        {"lib": "iobuffer"},
    ),
    NpmPackage(
        "fflate",
        "0.8.2",
        "cPJU47OaAoCbg0pBvzsgpTPhmhqI5eJjh/JIu8tPj5q+T7iLvW/JAYUqmE7KOB4R1ZyEhzBaIQpQpardBF5z8A==",
        {"esm/browser.js": "fflate.js"},
    ),
    NpmPackage(
        "dicom-parser",
        "1.8.21",
        "lYCweHQDsC8UFpXErPlg86Px2A8bay0HiUY+wzoG3xv5GzgqVHU3lziwSc/Gzn7VV7y2KeP072SzCviuOoU02w==",
        {"dist/dicomParser.min.js": "dicom-parser.js"},
    ),
)
# Names that only a bundler resolves, in fast-png, as addresses that a browser does
BARE_NAMES = {"fflate": "../fflate.js", "iobuffer": "../iobuffer/iobuffer.js"}
# dicom-parser is a script of before modules; it inflates with zlib, which the page has no use for
AS_MODULE = (
    "const module = { exports: {} }, exports = module.exports, require = () => undefined;\n",
    "\nexport default module.exports;\n",
)


def fetched(package: NpmPackage) -> bytes:
    """Return the file of a package, from the cache or the registry, its digest checked.

    Raises:
        ConnectionError: the registry does not answer, or has no such package.
        ValueError: the file has another digest.
    """
    if package.cached.is_file():
        data = package.cached.read_bytes()
        if _digest(data) == package.integrity:
            return data
    registry = os.environ.get(REGISTRY_VARIABLE) or os.environ.get(REGISTRY_VARIABLE.lower()) or NPM_REGISTRY
    url = f"{registry.rstrip('/')}/{package.name}/-/{package.name}-{package.version}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer:
            data = answer.read()
    except (OSError, ValueError) as error:  # ValueError: no address
        way_out = f"set {REGISTRY_VARIABLE} to a registry that can be reached"
        raise ConnectionError(
            f"{package.name} {package.version} of npm cannot be fetched ({error}): {way_out}"
        ) from error
    if _digest(data) != package.integrity:
        wrong = f"{package.name} {package.version} of the registry is not the file that this version pins"
        raise ValueError(f"{wrong}: set {REGISTRY_VARIABLE} to a sound registry")
    package.cached.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(data, package.cached)
    return data


def _digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha512(data).digest()).decode()


def vendor(folder: Path) -> None:
    """Write what the page needs of NPM_PACKAGES, and their licences, to a new `folder`.

    Raises:
        ConnectionError, ValueError: as `fetched`.
    """
    licences = []
    for package in NPM_PACKAGES:
        with tarfile.open(fileobj=io.BytesIO(fetched(package))) as packed:
            members = {one.name.partition("/")[2]: one for one in packed.getmembers() if one.isfile()}
            text = f"{package.name} {package.version}, licence {package.license}"
            if "LICENSE" in members:
                text += f"\n\n{_read(packed, members['LICENSE']).decode()}"
            licences.append(text)
            for source, target in package.files.items():
                below = [name for name in members if name == source or _is_module(name, source)]
                for name in below:
                    path = folder / f"{target}{name.removeprefix(source)}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(_for_browsers(_read(packed, members[name]), package.name))
    (folder / "licences.txt").write_text("\n\n\n".join(licences) + "\n")


def _is_module(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}/") and name.endswith(".js")


def _read(packed: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = packed.extractfile(member)
    if opened is None:
        raise ValueError(f"{member.name} is not a file of its package: download it again")
    return opened.read()


def _for_browsers(code: bytes, package: str) -> bytes:
    """Return the code of a package as a module that a browser loads without a bundler."""
    if package == "dicom-parser":
        return code.join(part.encode() for part in AS_MODULE)
    if package == "fast-png":
        for name, address in BARE_NAMES.items():
            code = re.sub(rf"from '{name}'".encode(), f"from '{address}'".encode(), code)
    return code
