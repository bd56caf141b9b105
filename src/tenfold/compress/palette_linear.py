"""Layers in few bits: a linear layer that looks its weights up, an embedding and an output layer of signed bytes."""

# Shape legend: R rows, C columns, G groups, V entries of a table, D model width, I inputs, O outputs

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tenfold.compress.activations import round_activations, to_int8
from tenfold.compress.bit_packing import pack, packed_bytes, unpack
from tenfold.compress.block_numbers import BlockNumbers, blocks_of, stored_block_bits
from tenfold.compress.kmeans1d import kmeans_1d, kmeans_1d_binned
from tenfold.nn.linear import linear

PaletteMethod = Literal["kmeans", "uniform"]
TABLE_TYPE = torch.float16  # of the tables in files


def fit_palettes(
    weight: Tensor,
    bits: int,
    group: int,
    axis: int,
    *,
    method: PaletteMethod = "kmeans",
    bins: int | None = None,
    importance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Tables of 2^bits values for groups of rows or columns, and which value each weight takes.

    Args:
        weight: (R, C), finite.
        bits: of an index.
        group: rows (axis 0) or columns (axis 1) that share a table; the last group may be smaller.
        axis: 0 or 1.
        method: "kmeans" takes the values of the least squared error, "uniform" equal steps from the group's least to
            its greatest weight (round to nearest).
        bins: None solves k-means exactly; a number takes the histogram of `kmeans_1d_binned`.
        importance: (R, C), 0 or more: what the squared error of each weight counts for k-means; None: all alike.
    Returns:
        tables (G, V) of the weight's type; index (R, C) int64.
    """
    weight = weight.detach()
    lines, counts = (weight if axis == 0 else weight.T), importance
    if counts is not None:
        counts = counts.detach() if axis == 0 else counts.detach().T
    tables, indices = [], []
    whole = len(lines) - len(lines) % group
    for rows, size in ((slice(whole), group), (slice(whole, None), len(lines) - whole)):
        if len(part := lines[rows]):
            shape = len(part) // size, -1
            counted = None if counts is None else counts[rows].reshape(shape)
            table, index = _fit(part.reshape(shape), 1 << bits, method, bins, counted)
            tables.append(table)
            indices.append(index.view(part.shape))
    index = torch.cat(indices)
    return torch.cat(tables), index if axis == 0 else index.T


def _fit(
    groups: Tensor, k: int, method: PaletteMethod, bins: int | None, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    if method == "uniform":
        low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
        step = (high - low) / (k - 1)
        index = ((groups - low) / step.where(step > 0, 1)).round().long()
        return low + step * torch.arange(k, dtype=step.dtype, device=step.device), index
    if importance is not None:
        # A group that no input reaches counts alike everywhere: any table serves it.
        importance = importance.where(importance.amax(1, keepdim=True) > 0, 1)
    return kmeans_1d(groups, k, importance) if bins is None else kmeans_1d_binned(groups, k, bins, importance)


class PaletteLinear(nn.Module):
    """y = W x, where `group` rows or columns of W share a table of 2^bits values.

    The tables are kept in the type the layer computes in, the indices packed (see `bit_packing`); the matrix exists
    only while a product runs, also between forward and backward. The weights do not learn, the input's gradient flows.

    Args:
        in_features, out_features: I, O.
        bits: of an index, one of 1, 2, 3, 4, 6, 8.
        group: rows (axis 0) or columns (axis 1) that share a table.
        axis: 0 or 1.
        block: numbers of a row (axis 0) or column (axis 1) that share a scale, by which what the tables say is multiplied;
            0 gives the whole row or column one; None: no scales.
        block_bits: of a block's scale and offset; see `BlockNumbers`.
        offsets: every block has an offset too, which is added behind the scale.
        activation_bits: 8 rounds the input, token by token; 16 leaves it.
    Source: Gunter et al. 2024, arXiv 2407.21075 (palettization); Han et al. 2016, arXiv 1510.00149 (shared weights).
    """

    tables: Tensor  # (G, V)
    packed: Tensor  # (R, bytes)
    scales: BlockNumbers | None
    offsets: BlockNumbers | None
    bias: None = None  # decoders have no offsets

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bits: int,
        group: int,
        axis: int,
        block: int | None = None,
        block_bits: int = 16,
        offsets: bool = False,
        activation_bits: int = 16,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group, self.axis, self.activation_bits = bits, group, axis, activation_bits
        self.block, self.block_bits = block, block_bits
        if offsets and block is None:
            raise ValueError("offsets: need blocks, got block None")
        rows, columns = self._lines()
        shape = rows, 0 if block is None else blocks_of(columns, block), block_bits
        self.scales = None if block is None else BlockNumbers(*shape)
        self.offsets = BlockNumbers(*shape, signed=True) if offsets else None
        self.register_buffer("tables", torch.zeros(-(-rows // group), 1 << bits))
        self.register_buffer("packed", torch.zeros(rows, packed_bytes(columns, bits), dtype=torch.uint8))

    @classmethod
    def from_linear(
        cls,
        layer: nn.Linear,
        *,
        bits: int,
        group: int,
        axis: int,
        block: int | None = None,
        block_bits: int = 16,
        offsets: bool = False,
        method: PaletteMethod = "kmeans",
        bins: int | None = None,
        importance: Tensor | None = None,
        activation_bits: int = 16,
    ) -> PaletteLinear:
        """The layer that is closest to `layer`; tables are rounded to 16 bits.

        A block's scale is its root mean square; with offsets, half the way from its least to its greatest weight, and the
        offset is their middle.

        Args:
            layer: without an offset.
            bits, group, axis, method, bins: as in `fit_palettes`.
            block, block_bits, offsets, activation_bits: of the new layer.
            importance: of each input (I,), say its mean square: what an error of its weights counts; None: all alike.
        Raises:
            ValueError: a layer with an offset, a weight that 16 bits cannot hold.
        """
        if layer.bias is not None:
            raise ValueError("layer: got one with an offset (bias), need one without")
        weight = layer.weight.detach()
        if not bool(weight.to(TABLE_TYPE).isfinite().all()):
            raise ValueError(f"weight: got magnitudes up to {weight.abs().max():g}, need at most 65504 (16-bit tables)")
        other = cls(
            layer.in_features,
            layer.out_features,
            bits=bits,
            group=group,
            axis=axis,
            block=block,
            block_bits=block_bits,
            offsets=offsets,
            activation_bits=activation_bits,
        ).to(weight.device)
        counts = None if importance is None else importance.to(weight).expand_as(weight)
        if block is not None:
            lines = weight if axis == 0 else weight.T
            scale, offset = other._take_blocks(lines)
            spread = scale if axis == 0 else scale.T
            # Errors count as they stand in the matrix: behind the scales.
            weight = weight if offset is None else weight - (offset if axis == 0 else offset.T)
            weight = weight / spread.where(spread > 0, 1)  # a block of one value has the scale 0
            counts = spread.square() * (1 if counts is None else counts)
        tables, index = fit_palettes(weight, bits, group, axis, method=method, bins=bins, importance=counts)
        other.tables = tables.to(TABLE_TYPE).to(weight.dtype)
        other.packed = pack(index if axis == 0 else index.T, bits)
        return other

    @property
    def weight(self) -> nn.Parameter:
        """The matrix (O, I), made anew at every call."""
        return nn.Parameter(self.dense(), requires_grad=False)

    def dense(self) -> Tensor:
        """The matrix (O, I)."""
        rows, columns = self._lines()
        index_RC = unpack(self.packed, self.bits, columns)
        first_R = torch.arange(rows, dtype=torch.int32, device=index_RC.device) // self.group << self.bits
        index_RC += first_R.unsqueeze(1)
        lines = self.tables.view(-1).index_select(0, index_RC.reshape(-1)).view(rows, columns)
        if self.scales is not None:
            lines *= self._spread(self.scales.values().to(lines.dtype), columns)
        if self.offsets is not None:
            lines += self._spread(self.offsets.values().to(lines.dtype), columns)
        return lines if self.axis == 0 else lines.T

    def _take_blocks(self, lines: Tensor) -> tuple[Tensor, Tensor | None]:
        """Set scales and offsets from rows of numbers; what they are of every number, (R, columns)."""
        assert self.scales is not None
        parts = lines.split(self.block or lines.shape[1], dim=1)  # the last may be shorter
        offset = None
        if self.offsets is None:
            scales = [part.square().mean(1).sqrt() for part in parts]
        else:
            ends = [part.aminmax(dim=1) for part in parts]
            self.offsets.take(torch.stack([(low + high) / 2 for low, high in ends], dim=1))
            offset = self._spread(self.offsets.values().to(lines.dtype), lines.shape[1])
            scales = [(high - low) / 2 for low, high in ends]
        self.scales.take(torch.stack(scales, dim=1))
        return self._spread(self.scales.values().to(lines.dtype), lines.shape[1]), offset

    def _spread(self, numbers: Tensor, columns: int) -> Tensor:
        """A block's number for every number of a line, (R, columns)."""
        return numbers.repeat_interleave(self.block or columns, dim=1)[:, :columns]

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (..., I). Returns: (..., O)."""
        if self.activation_bits == 8:
            x = round_activations(x)
        return _LookedUp.apply(x, self)

    def extra_repr(self) -> str:
        shape = f"in_features={self.in_features}, out_features={self.out_features}"
        scaled = "" if self.block is None else f", block={self.block}, block_bits={self.block_bits}"
        return f"{shape}, bits={self.bits}, group={self.group}, axis={self.axis}{scaled}"

    def _lines(self) -> tuple[int, int]:
        """What groups are made of, and the length of one."""
        shape = self.out_features, self.in_features
        return shape if self.axis == 0 else shape[::-1]


def stored_bits(
    rows: int,
    columns: int,
    bits: int,
    group: int,
    axis: int,
    block: int | None = None,
    block_bits: int = 16,
    offsets: bool = False,
) -> int:
    """Bits in a file of a palettized matrix: packed indices, tables of 16-bit values, scales and offsets of blocks."""
    lines, length = (rows, columns) if axis == 0 else (columns, rows)
    per_block = 0 if block is None else stored_block_bits(lines, blocks_of(length, block), block_bits)
    return 8 * lines * packed_bytes(length, bits) + 16 * (-(-lines // group) << bits) + per_block * (1 + offsets)


class _LookedUp(torch.autograd.Function):
    """The product with a palettized matrix, which the backward looks up again: the graph would keep it in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PaletteLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return linear(x, layer.dense())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad @ ctx.layer.dense().to(grad.dtype)).to(ctx.dtype), None


class Int8Rows(nn.Module):
    """A matrix of signed bytes with a step for every row, the row's largest magnitude / 127."""

    codes: Tensor
    steps: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(rows, columns, dtype=torch.int8))
        self.register_buffer("steps", torch.zeros(rows, 1))

    def _take(self, weight: Tensor) -> None:
        self.codes, self.steps = to_int8(weight.detach())

    @property
    def weight(self) -> nn.Parameter:
        """The matrix (rows, columns), made anew at every call."""
        return nn.Parameter(self.codes.to(self.steps.dtype) * self.steps, requires_grad=False)


class Int8Embedding(Int8Rows):
    """An embedding of one byte a number; a row is the vector of one token."""

    @classmethod
    def from_embedding(cls, layer: nn.Embedding) -> Int8Embedding:
        other = cls(*layer.weight.shape)
        other._take(layer.weight)
        return other

    def forward(self, ids: Tensor) -> Tensor:
        """Args: ids, integers (...). Returns: (..., D)."""
        return self.codes[ids].to(self.steps.dtype) * self.steps[ids]


class Int8Linear(Int8Rows):
    """A linear layer without offset of one byte a weight: an output layer that is not the embedding."""

    @classmethod
    def from_linear(cls, layer: nn.Linear) -> Int8Linear:
        other = cls(*layer.weight.shape)
        other._take(layer.weight)
        return other

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (..., D). Returns: (..., rows)."""
        return linear(x, self.weight)
