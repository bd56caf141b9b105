"""Pictures by what stands for them in a document: a scene, a sign, a file, a stretch of a shard, bytes, an array."""

# Shape legend: H height, W width

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UserError
from tenfold.vision.images import decode
from tenfold.vision.scenes import render_scene, render_sign
from tenfold.vision.webdataset import MAX_BYTES, Span


def open_picture(ref: Any, size: int) -> NDArray[np.uint8]:
    """The picture that a reference stands for.

    Args:
        ref: {"scene": objects}; {"sign": arguments of `render_sign`}; {"file", "start", "bytes"}, a stretch of a file; a path;
            the bytes of a PNG, JPEG or WebP; a PIL image; or an RGB array (H, W, 3).
        size: side in pixels of what is drawn anew; others come as they are.
    Returns:
        uint8 (H, W, 3).
    Raises:
        UserError: a reference of another kind, a picture that cannot be read.
    """
    if isinstance(ref, Mapping):
        return _described(ref, size)
    if isinstance(ref, bytes):
        return decode(ref, "picture")
    if isinstance(ref, str | Path):
        return decode(read_file(Path(ref)), str(ref))
    if isinstance(ref, np.ndarray):
        if ref.dtype != np.uint8 or ref.ndim != 3 or ref.shape[2] != 3 or 0 in ref.shape:
            raise UserError(f"picture: got an array {ref.dtype} {ref.shape}, need uint8 (height, width, 3)")
        return ref
    if hasattr(ref, "tobytes") and hasattr(ref, "convert"):
        return _from_pillow(ref)
    raise UserError(f"picture: got {type(ref).__name__}, need a path, bytes, an array, a PIL image or a description")


def read_file(path: Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        UserError: absent, no plain file, or larger than 256 MiB.
    """
    if not path.is_file():
        raise UserError(f"{path} is a folder, need a picture" if path.is_dir() else f"picture not found: {path}")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has {path.stat().st_size} bytes, at most {MAX_BYTES} are read; make it smaller")
    try:
        return path.read_bytes()
    except OSError as fault:
        raise UserError(f"{path}: cannot be read ({fault.strerror})") from fault


def span_ref(span: Span) -> dict[str, Any]:
    """The reference of a stretch of a file, as plain data."""
    return {"file": str(span.file), "start": span.start, "bytes": span.size}


def _described(ref: Mapping[str, Any], size: int) -> NDArray[np.uint8]:
    try:
        if "scene" in ref:
            return render_scene(ref["scene"], size)
        if "sign" in ref:
            return render_sign(**ref["sign"])
    except (ValueError, TypeError, KeyError) as fault:
        raise UserError(f"picture: {fault}") from fault
    if {"file", "start", "bytes"} <= set(ref):
        span = Span(Path(ref["file"]), ref["start"], ref["bytes"])
        return decode(span.read(), f"{span.file} at {span.start}")
    raise UserError(f"picture: got {sorted(map(str, ref))!r:.80}, need scene, sign, or file, start and bytes")


def _from_pillow(image: Any) -> NDArray[np.uint8]:
    """Through the same checks and conversions as a file."""
    import io

    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return decode(buffer.getvalue(), "picture")
