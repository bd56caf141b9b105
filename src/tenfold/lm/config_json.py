"""config.json of a decoder, in the words of Hugging Face."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tenfold.core.errors import UserError
from tenfold.lm.decoder import DecoderConfig
from tenfold.nn.moe_config import MoEConfig

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "tenfold_decoder": "TenfoldDecoder",
}
# Wavelength base where config.json names none, as the classes of `transformers` assume.
DEFAULT_BASE = {"llama": 1e4, "qwen3": 1e4, "mixtral": 1e6, "qwen3_moe": 1e4}
DEFAULT_EPS = {"llama": 1e-6, "qwen3": 1e-6, "mixtral": 1e-5, "qwen3_moe": 1e-6}


def model_type(cfg: DecoderConfig) -> str:
    """The Hugging Face class that computes this decoder, or our own name where none does."""
    if cfg.qk_norm and cfg.qk_norm_position != "pre_rope":
        return "tenfold_decoder"
    if cfg.moe is None:
        return "qwen3" if cfg.qk_norm else "llama"
    every_layer = all(cfg.is_sparse(layer) for layer in range(cfg.n_layers))
    if not every_layer or not _plain_experts(cfg.moe):
        return "tenfold_decoder"
    if cfg.qk_norm:
        return "qwen3_moe"
    return "mixtral" if cfg.moe.normalize else "tenfold_decoder"


def _plain_experts(moe: MoEConfig) -> bool:
    """Softmax over all experts, the best k of every token, nothing dropped, SwiGLU: what those classes compute."""
    plain = dataclasses.replace(
        moe,
        router="topk",
        score="softmax",
        dropless=True,
        activation="swiglu",
        bias=False,
        route_scale=1.0,
        logit_cap=0.0,
        shared_hidden=0,
        shared_gate=False,
    )
    # For k = 2 the GShard router makes the same choice with the same weights.
    same_router = moe.router == "topk" or (moe.router == "top2" and moe.normalize)
    return same_router and dataclasses.replace(moe, router="topk") == plain


def config_to_json(cfg: DecoderConfig) -> dict[str, Any]:
    """The content of config.json; what it has no word for stands under "tenfold"."""
    kind = model_type(cfg)
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.dim,
        "intermediate_size": cfg.ffn_dim,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": cfg.n_kv_heads,
        "head_dim": cfg.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        # Older versions of transformers read the first, newer ones the second.
        "rope_theta": cfg.rope_base,
        "rope_parameters": {"rope_theta": cfg.rope_base, "rope_type": "default"},
        "max_position_embeddings": cfg.max_len,
        "tie_word_embeddings": cfg.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "sliding_window": None,
        "use_cache": True,
    }
    own: dict[str, Any] = {
        "qk_norm": cfg.qk_norm,
        "qk_norm_position": cfg.qk_norm_position,
        "rope_layout": cfg.rope_layout,
        "dropout": cfg.dropout,
    }
    if cfg.moe is not None:
        config |= {
            "num_local_experts": cfg.moe.num_experts,
            "num_experts": cfg.moe.num_experts,
            "num_experts_per_tok": cfg.moe.top_k,
            "norm_topk_prob": cfg.moe.normalize,
            "router_aux_loss_coef": cfg.moe.lb_weight,
        }
        if kind == "mixtral":
            config["intermediate_size"] = cfg.moe.hidden
        else:
            config |= {"moe_intermediate_size": cfg.moe.hidden, "decoder_sparse_step": 1, "mlp_only_layers": []}
        own |= {
            "ffn_dim": cfg.ffn_dim,
            "moe": dataclasses.asdict(cfg.moe),
            "moe_every": cfg.moe_every,
            "moe_offset": cfg.moe_offset,
        }
    return config | {"tenfold": own}


def config_from_json(config: Mapping[str, Any], where: str) -> DecoderConfig:
    """A decoder's shape from the content of config.json.

    Args:
        config: the content.
        where: its file, for error messages.
    Raises:
        UserError: an unsupported architecture or option, a missing or senseless field.
    """
    names = {name: kind for kind, name in ARCHITECTURES.items()}
    architecture = (config.get("architectures") or [None])[0]
    kind = names.get(architecture) if architecture is not None else config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"{where}: architecture {architecture or config.get('model_type')} is not supported; "
            f"known: {', '.join(ARCHITECTURES.values())}"
        )
    _refuse_unsupported(config, where)
    own = config.get("tenfold", {})
    try:
        heads, dim = config["num_attention_heads"], config["hidden_size"]
        fields: dict[str, Any] = {
            "vocab_size": config["vocab_size"],
            "dim": dim,
            "n_layers": config["num_hidden_layers"],
            "n_heads": heads,
            "n_kv_heads": config.get("num_key_value_heads") or heads,
            "head_dim": config.get("head_dim") or dim // heads,
            "ffn_dim": own.get("ffn_dim", config["intermediate_size"]),
            "rope_base": float(_rope_base(config, kind)),
            "norm_eps": config.get("rms_norm_eps", DEFAULT_EPS.get(kind, 1e-5)),
            "qk_norm": own["qk_norm"] if kind == "tenfold_decoder" else kind in ("qwen3", "qwen3_moe"),
            "tie_embeddings": config.get("tie_word_embeddings", False),
            "max_len": config.get("max_position_embeddings", 4096),
        }
        fields |= {name: own[name] for name in ("qk_norm_position", "rope_layout", "dropout") if name in own}
        fields |= _experts(config, own, kind)
        return DecoderConfig(**fields)
    except KeyError as error:
        raise UserError(f"{where}: no field {error.args[0]}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _experts(config: Mapping[str, Any], own: Mapping[str, Any], kind: str) -> dict[str, Any]:
    if kind in ("llama", "qwen3") or (kind == "tenfold_decoder" and "moe" not in own):
        return {}
    if "moe" in own:
        known = {field.name for field in dataclasses.fields(MoEConfig)}
        if unknown := sorted(set(own["moe"]) - known):
            raise ValueError(f"tenfold.moe: unknown {', '.join(unknown)}; written by another version")
        return {"moe": MoEConfig(**own["moe"]), "moe_every": own["moe_every"], "moe_offset": own["moe_offset"]}
    hidden = config["intermediate_size"] if kind == "mixtral" else config["moe_intermediate_size"]
    moe = MoEConfig(
        dim=config["hidden_size"],
        hidden=hidden,
        num_experts=config.get("num_local_experts") or config["num_experts"],
        top_k=config["num_experts_per_tok"],
        router="topk",
        dropless=True,
        normalize=True if kind == "mixtral" else bool(config.get("norm_topk_prob", False)),
        lb_weight=config.get("router_aux_loss_coef", 0.001),
    )
    return {"moe": moe} | _placement(config, kind)


def _placement(config: Mapping[str, Any], kind: str) -> dict[str, int]:
    """Which layers are sparse, as a period and an offset."""
    layers = config["num_hidden_layers"]
    if kind == "mixtral":
        return {"moe_every": 1, "moe_offset": 0}
    step, dense = config.get("decoder_sparse_step", 1), set(config.get("mlp_only_layers") or [])
    sparse = [i for i in range(layers) if i not in dense and (i + 1) % step == 0]
    for every in range(1, layers + 1):
        for offset in range(every):
            if [i for i in range(layers) if i % every == offset] == sparse:
                return {"moe_every": every, "moe_offset": offset}
    raise ValueError(f"mlp_only_layers: sparse layers {sparse} do not repeat with one period")


def _rope_base(config: Mapping[str, Any], kind: str) -> float:
    parameters = config.get("rope_parameters") or {}
    return parameters.get("rope_theta") or config.get("rope_theta") or DEFAULT_BASE.get(kind, 5e5)


def _refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    """Options that would change the numbers and that this decoder does not compute."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name) or {}
        scaling = rope.get("rope_type", rope.get("type", "default"))
        if scaling != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0 or not _flat(rope):
            raise UserError(f"{where}: {name} {rope} is not supported, need rope_type default on the whole head")
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{where}: partial_rotary_factor {config['partial_rotary_factor']} is not supported, need 1")
    windowed = config.get("sliding_window") is not None and config.get("use_sliding_window", True)
    layers = set(config.get("layer_types") or ["full_attention"])
    if windowed or layers != {"full_attention"}:
        raise UserError(
            f"{where}: sliding-window attention is not supported (sliding_window {config.get('sliding_window')})"
        )
    for name, needed in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if config.get(name, needed) != needed:
            raise UserError(f"{where}: {name} {config[name]} is not supported, need {needed}")
    if config.get("quantization_config"):
        raise UserError(f"{where}: quantized weights are not supported; take the unquantized checkpoint")


def _flat(rope: Mapping[str, Any]) -> bool:
    """Newer files may hold one set of parameters per kind of layer."""
    return not any(isinstance(value, Mapping) for value in rope.values())
