"""A data set of the catalogue, and the places its files come from: an address, an npm package, tenfold itself."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

from rich.console import Console

from tenfold.core.atomic import file_sha256
from tenfold.core.conversions import Conversion
from tenfold.core.download import download
from tenfold.core.errors import UserError

GITHUB = "https://raw.githubusercontent.com"
SHIPPED = Path(__file__).with_name("shipped")  # laid out as a data folder; its README names sources and licences
PATIENCE = 1800.0  # seconds for one package


class Source(Protocol):
    """Where one file comes from."""

    @property
    def name(self) -> str:
        """What the file is called."""

    @property
    def home(self) -> str:
        """Where people read about it."""

    def bring(self, folder: Path, *, progress: bool = False) -> Path:
        """The file, whole and checked, in `folder` or where it already is."""


@dataclass(frozen=True)
class Origin:
    """A file at its public address."""

    url: str
    sha256: str
    size: int  # bytes

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def home(self) -> str:
        """The repository, without the commit."""
        owner, repository = PurePosixPath(urlsplit(self.url).path).parts[1:3]
        return f"github.com/{owner}/{repository}"

    def bring(self, folder: Path, *, progress: bool = False) -> Path:
        """Fetch it, going on where an earlier try broke off."""
        return download(self.url, folder / self.name, sha256=self.sha256, size=self.size, progress=progress)


@dataclass(frozen=True)
class Package:
    """The archive of an npm package, which the installed npm brings from the registry it is set up for."""

    package: str
    version: str
    sha256: str
    size: int  # bytes

    @property
    def name(self) -> str:
        return f"{self.package}-{self.version}.tgz"

    @property
    def home(self) -> str:
        return f"npm {self.package} {self.version}"

    def bring(self, folder: Path, *, progress: bool = False) -> Path:
        """Fetch the archive; nothing of it is unpacked or run.

        Raises:
            UserError: no npm, npm failed, or it brought another archive.
        """
        archive = folder / self.name
        if archive.is_file() and file_sha256(archive) == self.sha256:
            return archive
        spec = f"{self.package}@{self.version}"
        npm = shutil.which("npm")
        if npm is None:
            raise UserError(f"npm not found: it brings {spec}; install it (Debian, Ubuntu: apt-get install npm)")
        command = [npm, "pack", spec, "--ignore-scripts", "--loglevel=error", "--pack-destination", str(folder)]
        console = Console(stderr=True, quiet=not progress)
        try:
            with console.status(f"npm pack {spec} ({self.size / 1e6:.0f} MB)"):
                done = subprocess.run(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=PATIENCE,
                )
        except subprocess.TimeoutExpired as fault:
            raise UserError(
                f"npm pack {spec} took more than {PATIENCE:g} s; check the network and try again"
            ) from fault
        if done.returncode or not archive.is_file():
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            reason = re.sub(r"^npm (error|ERR!) ", "", said[0])  # its first line is the error's code
            raise UserError(f"npm pack {spec} failed ({reason}); check the network and try again")
        got = file_sha256(archive)
        if got != self.sha256:
            archive.unlink()
            raise UserError(
                f"wrong content: npm's {spec} has SHA-256 {got}, expected {self.sha256}; removed, try again"
            )
        return archive


@dataclass(frozen=True)
class Shipped:
    """A file that comes with tenfold."""

    file: str  # path below `SHIPPED`, with forward slashes

    @property
    def name(self) -> str:
        return PurePosixPath(self.file).name

    @property
    def home(self) -> str:
        return "comes with tenfold"

    def bring(self, folder: Path, *, progress: bool = False) -> Path:
        """Where it lies."""
        return SHIPPED / self.file


@dataclass(frozen=True)
class Dataset:
    """One file of ours, made from its origins."""

    name: str
    what: str
    licence: str
    file: str  # path below the data folder, with forward slashes
    size: int  # bytes on disk
    sha256: str  # of the content, as `content_sha256` takes it
    convert: Conversion
    origins: tuple[Source, ...]


def content_sha256(file: str, content: bytes) -> str:
    """SHA-256 of what a file holds: of the unpacked content of a .gz, of a .npz's arrays one after the other, of a .tar's files.

    The packed bytes depend on the zlib of the machine that made them, what they hold does not. Of the WebP pictures in a .tar
    the names count alone: their bytes depend on the encoder, and the drawings they are made from are checked at their origin.
    """
    digest = hashlib.sha256()
    if file.endswith(".npz"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in sorted(archive.namelist()):
                digest.update(name.encode() + b"\0" + archive.read(name))
    elif file.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                digest.update(member.name.encode() + b"\0")
                held = tar.extractfile(member)
                if held is not None and not member.name.endswith(".webp"):
                    digest.update(held.read())
    else:
        digest.update(gzip.decompress(content) if file.endswith(".gz") else content)
    return digest.hexdigest()
