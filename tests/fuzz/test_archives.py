"""Archives made to do harm: bombs cost little memory, names and links lead nowhere, wherever archives are read."""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tenfold.clinical import tables
from tenfold.clinical.physionet2012 import read_physionet2012
from tenfold.core.errors import UserError
from tenfold.core.model_folder import read_tensors
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.readers import read_triples
from tenfold.lm import tasks
from tenfold.recipes.afm.corpus import grade_school_maths
from tenfold.text.corpus import load_texts
from tenfold.vision.document_readers import read_llava, read_mmc4, read_obelics, read_texts
from tenfold.vision.emoji import read_emoji
from tenfold.vision.image_text import open_image_text
from tenfold.vision.images import decode
from tenfold.vision.webdataset import read_shard

UNPACKED = 1 << 30  # bytes
MEMORY = 700 << 20  # that reading may add; what may be unpacked is held a few times over


def gz(row: bytes) -> bytes:
    """A row so many times that it fills `UNPACKED`, packed to a few megabytes."""
    piece = row * ((1 << 24) // len(row))
    return gzip.compress(piece, mtime=0) * (UNPACKED // len(piece))


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def array(shape: tuple[int, ...], content: bytes = b"", dtype: str = "|u1") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def png(width: int, height: int, chunk: bytes = b"") -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + chunk + part(b"IDAT", rows) + part(b"IEND", b"")


def text_chunk() -> bytes:
    data = b"k\0\0" + zlib.compress(ZEROS)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def emoji(root: Path) -> Any:
    row = {"i": 0, "emoji": "x", "code": "1f600", "name": "grin", "group": "g", "subgroup": "s", "heldout": None}
    (root / "e.jsonl").write_text(json.dumps(row) + "\n")
    return read_emoji(root / "bomb.npz", root / "e.jsonl")


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"id": pa.array(["x" * (1 << 20)]).take(pa.array([0] * 1024))}), buffer, use_dictionary=True
    )
    return buffer.getvalue()


ZEROS = bytes(100 << 20)
BOMBS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], Any]]] = {
    "texts": ("bomb.txt.gz", lambda: gz(b"a b\n"), lambda root: load_texts([root / "bomb.txt.gz"], max_bytes=64 << 20)),
    "lines of text": ("bomb.txt.gz", lambda: gz(b"a b " * 1000 + b"\n"), lambda root: read_texts(root / "bomb.txt.gz")),
    "rows": ("lambada.jsonl.gz", lambda: gz(b'{"context": "%s", "target": "b"}\n' % (b"a" * 2000)), lambda root: tasks.load("lambada", root)),
    "one row": ("lambada.jsonl.gz", lambda: gz(bytes(1000)), lambda root: tasks.load("lambada", root)),
    "GSM8K": ("bomb.jsonl.gz", lambda: gz(b"[]"), lambda root: grade_school_maths(root / "bomb.jsonl.gz")),
    "triples": ("bomb.tsv.gz", lambda: gz(b"%s\tb\tc\n" % (b"a" * 2000)), lambda root: read_triples(root / "bomb.tsv.gz")),
    "a table": ("bomb.csv.gz", lambda: gz(b"id\n" + b"x" * 2000 + b"\n"), lambda root: tables.read_columns(root / "bomb.csv.gz", ["id"])),
    "a table of one row": ("bomb.csv.gz", lambda: gz(b"x"), lambda root: tables.read_columns(root / "bomb.csv.gz", ["id"])),
    "stays": ("physionet2012_a.npz", lambda: npz(value=array((len(ZEROS),), ZEROS)), read_physionet2012),
    "stays of any size": ("physionet2012_a.npz", lambda: npz(value=array((1 << 45,))), read_physionet2012),
    "a graph": ("bomb.npz", lambda: npz(names=array((len(ZEROS),), ZEROS)), lambda root: KnowledgeGraph.load(root / "bomb.npz")),
    "a graph of any size": ("bomb.npz", lambda: npz(names=array((1 << 45,))), lambda root: KnowledgeGraph.load(root / "bomb.npz")),
    "emoji": ("bomb.npz", lambda: npz(google=array((1, 5120, 5120, 4), ZEROS), twitter=b""), emoji),
    "a picture": ("bomb.png", lambda: png(60_000, 60_000), lambda root: decode((root / "bomb.png").read_bytes(), "p")),
    "a picture's text": ("bomb.png", lambda: png(60_000, 60_000, text_chunk()), lambda root: decode((root / "bomb.png").read_bytes(), "p")),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_one_line_and_little_memory(name: str, tmp_path: Path) -> None:
    file, make, read = BOMBS[name]
    (tmp_path / file).write_bytes(make())
    assert (tmp_path / file).stat().st_size < 16 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert str(caught.value).isprintable()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


NAMES = [
    "/etc/passwd",
    "../../etc/passwd",
    "a/../../b.txt",
    "C:\\x.txt",
    "a\nb.txt",
    "\x1b[2J.txt",
    ".hidden.txt",
    "n" * 99 + ".txt",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_shard_lead_nowhere(name: str, tmp_path: Path) -> None:
    """They are words: nothing is unpacked, nothing else is opened."""
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 2
        tar.addfile(member, io.BytesIO(b"hi"))
    before = sorted(tmp_path.parent.rglob("*"))
    spans = [span for kinds in read_shard(tmp_path / "0.tar").values() for span in kinds.values()]
    assert all(span.file == tmp_path / "0.tar" and span.read() == b"hi" for span in spans)
    with pytest.raises(UserError) as caught:
        open_image_text(tmp_path, 4)
    assert str(caught.value).isprintable()
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png", "a/../../secret.png"])
@pytest.mark.parametrize("read", [read_obelics, read_mmc4, read_llava])
def test_names_of_pictures_lead_nowhere(read: Callable[..., Any], name: str, tmp_path: Path) -> None:
    rows = {
        read_obelics: {"images": [name], "texts": [None]},
        read_mmc4: {"text_list": ["x"], "image_info": [{"image_name": name, "matched_text_index": 0}]},
        read_llava: [{"image": name, "conversations": [{"from": "human", "value": "<image>"}]}],
    }
    (tmp_path / "d").write_text(json.dumps(rows[read]))
    with pytest.raises(UserError, match="need a name below the folder"):
        read(tmp_path / "d", tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.safetensors", "a/x.safetensors", "x.bin", "", 3])
def test_names_of_shards_of_weights_lead_nowhere(name: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"need the name of a \.safetensors file beside it"):
        read_tensors(tmp_path)
