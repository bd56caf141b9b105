"""The codec of pixels, and what is said where diffusers is missing; the real one is tested beside diffusers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.diffusion.codec import Codec, KLCodec, PixelCodec


def test_pixels_stay_as_they_are() -> None:
    codec: Codec = PixelCodec()
    images = torch.rand(2, 3, 8, 8)
    assert (codec.channels, codec.factor) == (3, 1)
    assert torch.equal(codec.decode(codec.encode(images)), images)


def test_without_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"KLCodec needs the package diffusers: pip install 'tenfold\[diffusion\]'"):
        KLCodec(tmp_path)
