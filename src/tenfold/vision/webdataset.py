"""WebDataset shards: where the members of each sample lie in a .tar, which is never unpacked to disk.

A member's name up to the first dot of its last part is the sample, the rest its kind: `cats/7.jpg`, `cats/7.txt`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tenfold.core.errors import UserError

MAX_BYTES = 1 << 28  # of one member or picture file
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Span:
    """A stretch of a file: a member of a tar, or a file of its own."""

    file: Path
    start: int
    size: int  # bytes

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            UserError: the file is gone or has become shorter.
        """
        try:
            with self.file.open("rb") as file:
                file.seek(self.start)
                content = file.read(self.size)
        except OSError as fault:
            raise UserError(f"{self.file}: cannot be read ({fault.strerror}); give it back or start over") from fault
        if len(content) != self.size:
            raise UserError(f"{self.file}: has become shorter while it was in use; give it back or start over")
        return content


Shard = dict[str, dict[str, Span]]  # sample -> kind in lower case -> where it lies


def read_shard(path: Path) -> Shard:
    """The samples of a shard, in its order; hidden members are left out.

    Only headers are read. Anything but plain files and folders is refused, and so are damaged or cut-off shards.

    Raises:
        UserError: absent, compressed, no tar, cut off, a link or the like, two members of one name, or one of more than
            256 MiB.
    """
    if not path.is_file():
        raise UserError(f"data not found: {path}; need a .tar")
    shard: Shard = {}
    end = 0
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                if member.offset < end or member.size < 0:
                    raise tarfile.ReadError("members overlap")  # else a crafted size would make it loop
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                _add(shard, member, path)
    except UserError:
        raise
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as fault:
        raise UserError(f"{path}: not a whole uncompressed tar ({fault}); write it again") from fault
    # Python takes the end of the file for the end of the tar; a tar that was cut off between members would pass.
    if Span(path, end, min(_BLOCK, max(path.stat().st_size - end, 0))).read() != bytes(_BLOCK):
        raise UserError(f"{path}: the tar is cut off, its end mark is missing; copy it again")
    return shard


def read_about(kinds: Mapping[str, Span], where: str) -> dict[str, Any]:
    """The JSON object in a sample's .json; `where` opens every error.

    Raises:
        UserError: no .json, no JSON, or no object.
    """
    if "json" not in kinds:
        raise UserError(f"{where}: got no .json, need one")
    content = kinds["json"].read()
    try:
        about = json.loads(content)
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{where}: .json: not JSON ({fault}); write it again") from fault
    if not isinstance(about, dict):
        raise UserError(f"{where}: .json: got {type(about).__name__}, need a JSON object")
    return about


def _add(shard: Shard, member: tarfile.TarInfo, path: Path) -> None:
    name = PurePosixPath(member.name)
    if member.isdir() or name.name.startswith("."):
        return
    where = f"{path}: {member.name!r:.200}"
    if not member.isreg() or member.issparse():
        raise UserError(f"{where} is no plain file; pack the files themselves")
    if member.size > MAX_BYTES:
        raise UserError(f"{where} has {member.size} bytes, at most {MAX_BYTES} are read; take it out")
    stem, _, kind = name.name.partition(".")
    kinds = shard.setdefault(str(name.parent / stem), {})
    if kind.lower() in kinds:
        raise UserError(f"{where} is there twice; give every sample a name of its own")
    kinds[kind.lower()] = Span(path, member.offset_data, member.size)
