"""Mixture-of-experts weights from and to other layouts: a dense layer to copy, and Mixtral's names.

Shape legend: M model width, H hidden width, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.nn.moe_config import MoEConfig
from tenfold.nn.moe_layer import MoE

# Names of the projections (gate, up, down) of a gated layer and (up, down) of a plain one, as libraries write them.
_GATED_NAMES = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
_PLAIN_NAMES = (("up_proj", "down_proj"), ("fc1", "fc2"), ("c_fc", "c_proj"), ("0", "2"))
_PER_EXPERT_NAMES = _GATED_NAMES


def _dense_projections(ffn: nn.Module, gated: bool) -> list[nn.Linear]:
    children = dict(ffn.named_children())
    if not gated and isinstance(children.get("gate_proj"), nn.Linear):
        raise ValueError("activation: got a plain one, need swiglu, since the dense layer has a gate_proj")
    for names in _GATED_NAMES if gated else _PLAIN_NAMES:
        found = [children.get(name) for name in names]
        if all(isinstance(child, nn.Linear) for child in found):
            return [child for child in found if isinstance(child, nn.Linear)]
    raise ValueError(
        f"ffn: got linear layers named {[n for n, c in children.items() if isinstance(c, nn.Linear)]}, need "
        + " or ".join("/".join(names) for names in (_GATED_NAMES if gated else _PLAIN_NAMES))
        + f" for a {'gated' if gated else 'plain'} activation"
    )


@torch.no_grad()
def upcycle(ffn: nn.Module, cfg: MoEConfig) -> MoE:
    """A mixture whose experts are all copies of a dense layer, with a fresh router.

    With weights that sum to 1 and nothing dropped it computes what the dense layer computes.

    Args:
        ffn: a feed-forward layer of three linear layers (gate_proj, up_proj, down_proj; or w1, w3, w2) for a gated
            activation, of two (up_proj, down_proj; fc1, fc2; a Sequential) for a plain one.
        cfg: its dim, hidden and bias must be those of `ffn`.
    Raises:
        ValueError: other names or shapes.
    Source: Komatsuzaki et al. 2022 (arXiv 2212.05055).
    """
    linears = _dense_projections(ffn, cfg.gated)
    activation = getattr(ffn, "activation", cfg.activation)
    if isinstance(activation, str) and activation != cfg.activation:
        raise ValueError(f"activation: got {cfg.activation!r}, need that of the dense layer, {activation!r}")
    hidden, width = linears[0].weight.shape
    if (width, hidden) != (cfg.dim, cfg.hidden):
        raise ValueError(f"ffn: got width {width} and hidden {hidden}, need {cfg.dim} and {cfg.hidden}")
    if any((linear.bias is not None) != cfg.bias for linear in linears):
        raise ValueError(f"bias: got {cfg.bias}, need whether the dense layer has biases, {not cfg.bias}")
    weight = linears[0].weight
    moe = MoE(cfg).to(device=weight.device, dtype=weight.dtype)
    stems = ("0", "1", "2") if cfg.gated else ("0", "2")
    for stem, linear in zip(stems, linears, strict=True):
        getattr(moe, "w" + stem).copy_(linear.weight.t().expand_as(getattr(moe, "w" + stem)))
        if cfg.bias:
            getattr(moe, "b" + stem).copy_(linear.bias.expand_as(getattr(moe, "b" + stem)))
    return moe


def from_mixtral(state_dict: Mapping[str, Tensor], prefix: str = "", **options: Any) -> MoE:
    """A layer from the weights of one sparse block of Mixtral, Qwen3-MoE and their kin.

    Args:
        state_dict: holds, behind `prefix`, `gate.weight` [E, M] and the experts either one by one
            (`experts.0.w1.weight` or `experts.0.gate_proj.weight`, …) or fused (`experts.gate_up_proj` [E, 2H, M],
            `experts.down_proj` [E, M, H]). A block's own prefix (`block_sparse_moe.`, `mlp.`) is found by itself.
        prefix: what stands before the block's names, such as "model.layers.3.".
        options: fields of `MoEConfig` besides the sizes; the default is the published routing, top-2 of all experts
            without drops.
    Raises:
        ValueError: names or shapes that do not form one block.
    """
    block = _block_of(state_dict, prefix)
    gate = block["gate.weight"]
    experts, dim = gate.shape
    used = {"gate.weight"}
    if "experts.gate_up_proj" in block:
        used |= {"experts.gate_up_proj", "experts.down_proj"}
        gate_up, down = block["experts.gate_up_proj"], block["experts.down_proj"]
        w0, w1 = (half.mT for half in gate_up.chunk(2, dim=1))
        w2 = down.mT
    else:
        names = next((n for n in _PER_EXPERT_NAMES if f"experts.0.{n[0]}.weight" in block), None)
        if names is None:
            raise ValueError(f"{prefix}experts: got {sorted(block)[:3]}, need w1/w3/w2, gate_proj/… or gate_up_proj")
        missing = [
            f"experts.{e}.{n}.weight" for e in range(experts) for n in names if f"experts.{e}.{n}.weight" not in block
        ]
        if missing or f"experts.{experts}.{names[0]}.weight" in block:
            problem = f"lacks {missing[0]}" if missing else f"holds more than {experts} experts"
            raise ValueError(f"{prefix}gate.weight: names {experts} experts, but the state {problem}")
        used |= {f"experts.{e}.{n}.weight" for e in range(experts) for n in names}
        w0, w1, w2 = (torch.stack([block[f"experts.{e}.{n}.weight"].t() for e in range(experts)]) for n in names)
    left = sorted(n for n in block.keys() - used if n.startswith(("gate.", "experts.", "shared_expert")))
    if left:
        raise ValueError(f"{prefix}{left[0]}: the layer has no place for it (shared experts and biases are not read)")
    hidden = w0.shape[2]
    for name, got, need in (
        ("w0", w0, (experts, dim, hidden)),
        ("w1", w1, (experts, dim, hidden)),
        ("w2", w2, (experts, hidden, dim)),
    ):
        if tuple(got.shape) != need:
            raise ValueError(f"{prefix}experts: {name} has shape {tuple(got.shape)}, need {need} from gate.weight")
    defaults: dict[str, Any] = {"router": "topk", "dropless": True, "top_k": min(2, experts)}
    moe = MoE(MoEConfig(dim, hidden, experts, **{**defaults, **options}))
    _same_block(moe.config)
    moe = moe.to(device=gate.device, dtype=gate.dtype)
    with torch.no_grad():
        for parameter, tensor in ((moe.gate_weight, gate.t()), (moe.w0, w0), (moe.w1, w1), (moe.w2, w2)):
            assert parameter is not None
            parameter.copy_(tensor)
    return moe


def _block_of(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    for inner in ("", "block_sparse_moe.", "mlp."):
        full = prefix + inner
        if full + "gate.weight" in state_dict:
            return {name[len(full) :]: tensor for name, tensor in state_dict.items() if name.startswith(full)}
    near = [name for name in state_dict if name.endswith("gate.weight")][:3]
    raise ValueError(f"{prefix}gate.weight: not in the state; the nearest names are {near}")


def _same_block(config: MoEConfig) -> None:
    if not config.gated or config.bias or config.shared_hidden or config.router == "topk_bias":
        raise ValueError(
            f"Mixtral's block: got activation={config.activation!r}, bias={config.bias}, router={config.router!r}, "
            f"shared_hidden={config.shared_hidden}, need swiglu without biases and shared experts"
        )


def to_mixtral(moe: MoE, layout: str = "mixtral", prefix: str = "") -> dict[str, Tensor]:
    """A layer's weights under the names of other libraries; the inverse of `from_mixtral`.

    Args:
        moe: a swiglu layer without biases and shared experts.
        layout: "mixtral" (`experts.0.w1.weight`, …), "qwen" (`experts.0.gate_proj.weight`, …) or "fused"
            (`experts.gate_up_proj`, `experts.down_proj`: what transformers 5 holds in memory).
        prefix: put before every name, such as "model.layers.3.block_sparse_moe.".
    """
    _same_block(moe.config)
    assert moe.w1 is not None
    state = {"gate.weight": moe.gate_weight.detach().t().contiguous()}
    w0, w1, w2 = (w.detach().mT for w in (moe.w0, moe.w1, moe.w2))
    if layout == "fused":
        state["experts.gate_up_proj"] = torch.cat([w0, w1], dim=1)
        state["experts.down_proj"] = w2.contiguous()
    elif layout in ("mixtral", "qwen"):
        names = ("w1", "w3", "w2") if layout == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        for e in range(moe.config.num_experts):
            for name, w in zip(names, (w0, w1, w2), strict=True):
                state[f"experts.{e}.{name}.weight"] = w[e].contiguous()
    else:
        raise ValueError(f"layout: got {layout!r}, need 'mixtral', 'qwen' or 'fused'")
    return {prefix + name: tensor for name, tensor in state.items()}
