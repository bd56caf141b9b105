"""The forward passes of generation, on weights laid out for few rows.

A linear layer of the model multiplies thousands of rows in training; in generation it meets one row a sequence, and
its time is that of reading the weights. Here the same decoder runs on other linear layers: weights packed once for
oneDNN's kernels, or, for a single row, read by compiled loops, in float32 or eight bits.
"""

# Shape legend: B rows, I inputs, O outputs, D model, V vocabulary

from __future__ import annotations

import copy
import os
import shutil
import types
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.lm.packed_cache import PackedCache
from tenfold.nn.ffn import FeedForward

if TYPE_CHECKING:
    from tenfold.lm.decoder import Block, Decoder
    from tenfold.lm.kv_cache import KVCache

Weights = Literal["float", "int8"]
Compiled = Literal["auto", "on", "off"]

# oneDNN packs for a number of rows; below four it takes a kernel with a third of the speed (benchmarks/generation.py).
PACKED_ROWS, FEWEST_ROWS = 16, 4
WORTH_COMPILING = 64 << 20  # bytes of weights: less stays in the processor's cache, where every kernel is fast


class Stepper:
    """Runs a decoder on prompts and single tokens.

    On a CPU in float32 it holds a second copy of the matrices, packed, and where a compiler is there loops for a single
    row; elsewhere it runs the model as it is. Later changes of the model's weights are not seen.

    Args:
        model: the decoder.
        weights: of the single-row loops: the model's, or rounded to eight bits with one scale an output.
        compiled: "auto" compiles the loops for models above 64 MB where g++ is there, "on" always, "off" never.
    """

    def __init__(self, model: Decoder, *, weights: Weights = "float", compiled: Compiled = "auto") -> None:
        if weights not in ("float", "int8") or compiled not in ("auto", "on", "off"):
            raise ValueError(f"weights, compiled: got {weights!r}, {compiled!r}, need float, int8; auto, on, off")
        first = model.embed_tokens.weight
        plain = first.device.type == "cpu" and first.dtype == torch.float32
        self.model = _joined(model, _with_linears(model, PackedLinear)) if plain and _packs() else model
        self._rows: _SingleRow | None = None
        wanted = compiled == "on" or (compiled == "auto" and 4 * model.num_params(True) > WORTH_COMPILING)
        dense = all(isinstance(block.mlp, FeedForward) and _plain(block) for block in model.layers)
        if wanted and plain and dense and _compiler():
            self._rows = _SingleRow(model, weights)
        elif weights == "int8":
            warnings.warn(
                "int8 weights need float32 on a CPU, a dense model and g++: generating with float", stacklevel=3
            )

    def prompt(self, ids: Tensor, cache: KVCache, last: list[int] | None = None) -> Tensor:
        """Read a piece of prompts.

        Args:
            ids: int64 (B, S), filled up behind shorter rows.
            cache: of the rows; it counts S tokens more in each.
            last: index of each row's last real token; None: S - 1.
        Returns:
            logits (B, V) behind those tokens.
        """
        hidden_BSD = self.model.hidden(ids, cache=cache)
        if last is None:
            return self.model.head(hidden_BSD[:, -1])
        return self.model.head(hidden_BSD[torch.arange(len(last)), torch.tensor(last)])

    def pieces(self, tokens_T: Tensor, cache: PackedCache) -> Tensor:
        """Read pieces of several prompts, one behind the other.

        Returns:
            logits (B, V) behind the last token of each piece.
        """
        hidden_TD = self.model.hidden(tokens_T.unsqueeze(1), cache=cache).squeeze(1)
        return self.model.head(hidden_TD[torch.tensor(cache.new).cumsum(0) - 1])

    def __call__(self, tokens_B: Tensor, cache: KVCache | PackedCache) -> Tensor:
        """One more token a row; logits (B, V) of the next."""
        if isinstance(cache, PackedCache):
            return self.pieces(tokens_B, cache)
        if self._rows is not None and len(tokens_B) == 1:
            try:
                return self._rows(tokens_B, cache)
            except Exception as error:
                if self._rows.used:
                    raise
                # Whatever the compiler dislikes at its first use: the other way gives the same tokens.
                warnings.warn(f"no compiled loops: {type(error).__name__}: {str(error)[:200]}", stacklevel=2)
                self._rows = None
        return self.prompt(tokens_B.unsqueeze(1), cache)


class PackedLinear(nn.Module):
    """x Wᵀ + b with W packed once; fewer than four rows are filled up to four."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (..., I). Returns: (..., O)."""
        rows = x.reshape(-1, x.shape[-1])
        count = rows.shape[0]
        if count < FEWEST_ROWS:
            rows = F.pad(rows, (0, 0, 0, FEWEST_ROWS - count))
        y = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return y[:count].view(*x.shape[:-1], -1)


class JoinedLinear(nn.Module):
    """One of several layers of the same input, whose products are one: a call costs as much as a small matrix.

    The first of them that meets an input computes all, the others hand out their parts of it.
    """

    def __init__(self, joint: PackedLinear, sizes: list[int], part: int, memory: dict[str, Any]) -> None:
        super().__init__()
        self._joint, self._sizes, self._part, self._memory = joint, sizes, part, memory

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (..., I). Returns: (..., O)."""
        if self._memory.get("x") is not x:
            self._memory.update(x=x, parts=list(self._joint(x).split(self._sizes, -1)))
        part: Tensor = self._memory["parts"][self._part]
        return part


class RowLinear(nn.Module):
    """W x + b for one row, written as a sum that the compiler turns into a loop over W at the speed of memory."""

    def __init__(self, linear: nn.Linear, weights: Weights) -> None:
        super().__init__()
        self.weight, self.scale = linear.weight.detach(), None
        if weights == "int8":
            scale_O = self.weight.abs().amax(1).clamp_min(1e-30) / 127
            self.weight, self.scale = (self.weight / scale_O.unsqueeze(1)).round_().to(torch.int8), scale_O
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (1, 1, I). Returns: (1, 1, O)."""
        y = (self.weight.to(x.dtype) * x.view(-1)).sum(-1)
        y = y if self.scale is None else y * self.scale
        y = y if self.bias is None else y + self.bias
        return y.view(1, 1, -1)


class _SingleRow:
    """One token of one sequence. All layers have one shape, so a few compiled functions serve them all.

    They run from one attention to the next, since each call costs as much as a small matrix.
    """

    def __init__(self, model: Decoder, weights: Weights) -> None:
        self._model = _with_linears(model, lambda linear: RowLinear(linear, weights))
        self._before, self._between = _compile(_before), _compile(_between)
        self._after, self._last = _compile(_after), _compile(_last)
        self.used = False

    def __call__(self, tokens_B: Tensor, cache: KVCache) -> Tensor:
        model = self._model
        x_BSD = model.embed_tokens(tokens_B.unsqueeze(1))
        cos, sin = model.rotary.table(cache.longest + 1, x_BSD.device, x_BSD.dtype)
        cos, sin = cos[-1:], sin[-1:]
        blocks = cast("list[Block]", list(model.layers))
        q, k, v = self._before(blocks[0], x_BSD, cos, sin)
        for layer, block in enumerate(blocks):
            attended = block.self_attn.attend(q, *cache.layer(layer).append(k, v), None)
            if layer + 1 < len(blocks):
                x_BSD, q, k, v = self._between(block, blocks[layer + 1], x_BSD, attended, cos, sin)
            else:
                x_BSD = self._after(block, x_BSD, attended)
        logits_BV = self._last(model.lm_head, model.norm(x_BSD))
        cache.advance(1)
        self.used = True
        return logits_BV


def _before(block: Block, x_BSD: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return block.self_attn.project(block.input_layernorm(x_BSD), (cos, sin))


def _after(block: Block, x_BSD: Tensor, attended: Tensor) -> Tensor:
    h_BSD = x_BSD + block.self_attn.o_proj(attended)
    return h_BSD + block.mlp(block.post_attention_layernorm(h_BSD))


def _between(
    block: Block, following: Block, x_BSD: Tensor, attended: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_BSD = _after(block, x_BSD, attended)
    return x_BSD, *_before(following, x_BSD, cos, sin)


def _last(head: nn.Module, x_BSD: Tensor) -> Tensor:
    return head(x_BSD)[:, -1]


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without guards: only `_SingleRow` calls it, always with one shape. A guard check costs as much as a layer's attention.

    The compiler keeps its results by code object, without guards one result for each: so every use has a copy of its own.
    """
    own = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    options: dict[str, Any] = {
        "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,
        # Left to itself the compiler works a norm out anew, root and all, inside the loops over the weights.
        "realize_opcount_threshold": 2,
    }
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


def _with_linears(model: Decoder, make: Callable[[nn.Linear], nn.Module]) -> Decoder:
    """The same decoder with other linear layers; all other parameters and the configuration are shared.

    The output layer, which may be the embedding matrix, becomes a layer of its own.
    """

    def rebuild(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Linear):
            return make(module)
        other = copy.copy(module)
        other._modules = {name: None if child is None else rebuild(child) for name, child in module._modules.items()}
        return other

    other = rebuild(model)
    if model.lm_head is None:
        vocabulary, width = model.embed_tokens.weight.shape
        linear = nn.Linear(width, vocabulary, bias=False, device="meta")
        linear.weight = model.embed_tokens.weight
        setattr(other, "lm_head", make(linear))  # noqa: B010 - typed as a plain linear layer
    return cast("Decoder", other.eval())


def _joined(model: Decoder, packed: Decoder) -> Decoder:
    """Join the layers of `packed` that share an input: queries, keys and values; gate and up projection."""
    for plain, block in zip(model.layers, packed.layers, strict=True):
        for name, parts in (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj"))):
            module, target = getattr(plain, name), getattr(block, name)
            if name == "mlp" and not (isinstance(module, FeedForward) and module.gate_proj is not None):
                continue
            layers = [getattr(module, part) for part in parts]
            if any(not isinstance(layer, nn.Linear) or layer.bias is not None for layer in layers):
                continue  # such as layers with adapters, which run by themselves
            sizes = [layer.out_features for layer in layers]
            whole = nn.Linear(layers[0].in_features, sum(sizes), bias=False, device="meta")
            whole.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
            joint, memory = PackedLinear(whole), dict[str, Any]()
            for i, part in enumerate(parts):
                setattr(target, part, JoinedLinear(joint, sizes, i, memory))
    return packed


def _plain(block: nn.Module) -> bool:
    """Whether all projections are ordinary linear layers: without adapters, not palettized."""
    parts = block.named_modules()
    return all(isinstance(layer, nn.Linear) for name, layer in parts if name.rpartition(".")[2].endswith("_proj"))


def _packs() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "g++")) is not None
