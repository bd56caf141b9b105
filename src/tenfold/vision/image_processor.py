"""Pictures to the pixels an encoder reads: fitted to a square, whole, in tiles, or both."""

# Shape legend: C crops, S side of a crop, H height, W width, r rows and c columns of tiles

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.vision.picture_refs import open_picture
from tenfold.vision.vit import CLIP_MEAN, CLIP_STD

Fit = Literal["pad", "squash", "crop"]
Overview = Literal["first", "last"]
Tiles = int | tuple[int, int] | None


class ImageProcessor:
    """One picture to (C, 3, S, S): turned upright, RGB on white, resized, in [0, 1], normalised.

    Args:
        size: S.
        fit: "pad" keeps the aspect and pads with the mean colour, "squash" stretches, "crop" keeps the middle square.
        tiles: None: the whole picture alone. 4 (or another square number): resized to 2S x 2S and cut into 4 tiles, beside the
            whole picture (the paper's sub-images). (least, most): the grid of so many tiles that fits the picture best.
        overview: the whole picture comes before or after its tiles.
        mean, std: of the normalisation, by channel.
        tokens: k, the tokens that a connector makes of one crop.
    Raises:
        ValueError: sizes below 1, an unknown fit, tiles that are no square or no range, no three means and deviations.
    Source: MM1, Section 4.2 (sub-image decomposition); MM1.5 (arXiv 2409.20566), Section 3.3 (dynamic tiles).
    """

    def __init__(
        self,
        size: int,
        fit: Fit = "pad",
        tiles: Tiles = None,
        overview: Overview = "first",
        *,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        tokens: int | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"size: got {size}, need at least 1")
        if fit not in get_args(Fit):
            raise ValueError(f"fit: got {fit!r}, need one of {', '.join(get_args(Fit))}")
        if overview not in get_args(Overview):
            raise ValueError(f"overview: got {overview!r}, need first or last")
        if isinstance(tiles, int) and (tiles < 4 or round(tiles**0.5) ** 2 != tiles):
            raise ValueError(f"tiles: got {tiles}, need a square number from 4 on, or (least, most)")
        if isinstance(tiles, tuple) and not (len(tiles) == 2 and 1 <= tiles[0] <= tiles[1]):
            raise ValueError(f"tiles: got {tiles}, need (least, most) with 1 <= least <= most")
        if tokens is not None and tokens < 1:
            raise ValueError(f"tokens: got {tokens}, need at least 1")
        self.size, self.fit, self.tiles, self.overview, self.tokens = size, fit, tiles, overview, tokens
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        if not (
            len(self.mean) == len(self.std) == 3 and all(map(math.isfinite, self.mean + self.std)) and min(self.std) > 0
        ):
            raise ValueError(
                f"mean, std: got {list(mean)!r:.60}, {list(std)!r:.60}, need three finite numbers each, those of std above 0"
            )
        self._mean = torch.tensor(self.mean).view(3, 1, 1)
        self._std = torch.tensor(self.std).view(3, 1, 1)

    def __call__(self, picture: Any, *, tiled: bool = True) -> Tensor:
        """The crops of a picture.

        Args:
            picture: what `open_picture` takes.
            tiled: False gives the whole picture alone, whatever `tiles` says.
        Returns:
            (C, 3, S, S), float32.
        Raises:
            UserError: a picture that cannot be read.
        """
        image = open_picture(picture, self.size)
        whole = self._normalised(self._fitted(image, self.size, self.size)[None])
        if self.tiles is None or not tiled:
            return whole
        cut = self._normalised(np.stack(self.cut(image)))
        return torch.cat([whole, cut] if self.overview == "first" else [cut, whole])

    def crops(self, picture: Any, *, tiled: bool = True) -> int:
        """C, without the pixels where that can be known."""
        if self.tiles is None or not tiled:
            return 1
        if isinstance(self.tiles, int):
            return self.tiles + 1
        height, width = open_picture(picture, self.size).shape[:2]
        rows, columns = self.grid(height, width)
        return rows * columns + 1

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of tiles for a picture: least down-scaling, then least padding, then fewest tiles."""
        if self.tiles is None:
            return 1, 1
        if isinstance(self.tiles, int):
            side = round(self.tiles**0.5)
            return side, side
        least, most = self.tiles
        grids = [(r, c) for r in range(1, most + 1) for c in range(1, most + 1) if least <= r * c <= most]

        def cost(grid: tuple[int, int]) -> tuple[float, float, int]:
            r, c = grid
            scale = min(r * self.size / height, c * self.size / width)
            padding = 1 - scale * scale * height * width / (r * c * self.size**2)
            return -round(min(scale, 1.0), 9), round(padding, 9), r * c

        return min(grids, key=cost)

    def cut(self, image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """The tiles of a picture in raster order, each uint8 (S, S, 3)."""
        rows, columns = self.grid(*image.shape[:2])
        s = self.size
        large = self._fitted(image, rows * s, columns * s)
        return [large[r * s : (r + 1) * s, c * s : (c + 1) * s] for r in range(rows) for c in range(columns)]

    def _fitted(self, image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        """(H, W, 3) to (height, width, 3)."""
        own = image.shape[:2]
        if own == (height, width):
            return image
        if self.fit == "squash" or own[0] * width == own[1] * height:
            return _resized(image, height, width)
        choose = min if self.fit == "pad" else max
        scale = choose(height / own[0], width / own[1])
        inner = [max(1, round(side * scale)) for side in own]
        small = _resized(image, *inner)
        if self.fit == "crop":
            top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
            return small[top : top + height, left : left + width]
        canvas = np.empty((height, width, 3), dtype=np.uint8)
        canvas[:] = np.round(np.clip(self.mean, 0, 1) * 255).astype(np.uint8)
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        canvas[top : top + inner[0], left : left + inner[1]] = small
        return canvas

    def _normalised(self, images: NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 255
        return (pixels - self._mean) / self._std


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
