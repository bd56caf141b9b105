"""config.json of a decoder, in the words of Hugging Face."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenfold.core.config import from_json
from tenfold.core.errors import UserError
from tenfold.lm.decoder import DecoderConfig
from tenfold.nn.attention import QKNormPosition
from tenfold.nn.moe_config import MoEConfig
from tenfold.nn.rotary import RopeLayout

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
# The largest values taken on trust, since a config is read before its tensors; no tensor then exceeds 2^60 bytes.
MOST_WIDE, MOST_MANY, MOST_LONG = 1 << 19, 1 << 16, 1 << 31


@dataclass(frozen=True)
class OwnFields:
    """What stands under "tenfold"."""

    qk_norm: bool | None = None
    qk_norm_position: QKNormPosition = "pre_rope"
    rope_layout: RopeLayout = "half"
    dropout: float = 0.0
    ffn_dim: int | None = None
    moe: MoEConfig | None = None
    moe_every: int = 2
    moe_offset: int = 1

    def __post_init__(self) -> None:
        if self.ffn_dim is not None and not 1 <= self.ffn_dim <= MOST_WIDE:
            raise ValueError(f"ffn_dim: got {self.ffn_dim}, need 1..{MOST_WIDE}")
        if self.moe is not None:
            for name, most in (("hidden", MOST_WIDE), ("shared_hidden", MOST_WIDE), ("num_experts", MOST_MANY)):
                if getattr(self.moe, name) > most:
                    raise ValueError(f"moe.{name}: got {getattr(self.moe, name)}, need at most {most}")


@dataclass(frozen=True)
class Fields:
    """The fields of config.json that are read here, in Hugging Face's words; None is absent or null."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float | None = None
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool = True
    layer_types: list[str] | None = None
    quantization_config: dict[str, Any] | None = None
    num_local_experts: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None
    norm_topk_prob: bool = False
    router_aux_loss_coef: float = 0.001
    tenfold: OwnFields = OwnFields()

    def __post_init__(self) -> None:
        wide = ("hidden_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads", "head_dim")
        many = ("num_hidden_layers", "num_local_experts", "num_experts", "num_experts_per_tok", "decoder_sparse_step")
        long = ("vocab_size", "max_position_embeddings")
        for names, most in (((*wide, "num_key_value_heads"), MOST_WIDE), (many, MOST_MANY), (long, MOST_LONG)):
            for name in names:
                value = getattr(self, name)
                if value is not None and not 1 <= value <= most:
                    raise ValueError(f"{name}: got {value}, need 1..{most}")
        for name in ("rms_norm_eps", "rope_theta", "router_aux_loss_coef"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name}: got {value}, need a finite number")


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
        # Absent, they would be 1 and 2 for the classes of `transformers`, which then end a text at any token 2.
        "bos_token_id": None,
        "eos_token_id": None,
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
    try:
        kind = _kind(config)
        known = {field.name for field in dataclasses.fields(Fields)}
        given = {name: value for name, value in config.items() if name in known and value is not None}
        fields = from_json(Fields, given, where=where)
        _refuse_unsupported(fields)
        return _decoder_config(fields, kind)
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        said = str(error) if isinstance(error, UserError) else f"{where}: {error}"
        raise UserError(" ".join(said.split())) from error


def _kind(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures") or [None]
    if not isinstance(architectures, list):
        raise ValueError(f"architectures: got {type(architectures).__name__}, need a list of names")
    if architectures[0] is None:
        stated, kinds = config.get("model_type"), {kind: kind for kind in ARCHITECTURES}
    else:
        stated, kinds = architectures[0], {name: kind for kind, name in ARCHITECTURES.items()}
    kind = kinds.get(stated) if isinstance(stated, str) else None
    if kind is None:
        shown = stated if isinstance(stated, str) else reprlib.repr(stated)
        raise ValueError(f"architecture {shown} is not supported; known: {', '.join(ARCHITECTURES.values())}")
    return kind


def _decoder_config(fields: Fields, kind: str) -> DecoderConfig:
    own, heads = fields.tenfold, fields.num_attention_heads
    eps = fields.rms_norm_eps
    qk_norm = own.qk_norm if kind == "tenfold_decoder" else kind in ("qwen3", "qwen3_moe")
    if qk_norm is None:
        raise ValueError("tenfold.qk_norm: missing, need bool")
    return DecoderConfig(
        vocab_size=fields.vocab_size,
        dim=fields.hidden_size,
        n_layers=fields.num_hidden_layers,
        n_heads=heads,
        n_kv_heads=fields.num_key_value_heads or heads,
        head_dim=fields.head_dim or fields.hidden_size // heads,
        ffn_dim=own.ffn_dim or fields.intermediate_size,
        rope_base=_rope_base(fields, kind),
        norm_eps=DEFAULT_EPS.get(kind, 1e-5) if eps is None else eps,
        qk_norm=qk_norm,
        qk_norm_position=own.qk_norm_position,
        rope_layout=own.rope_layout,
        tie_embeddings=fields.tie_word_embeddings,
        max_len=fields.max_position_embeddings,
        dropout=own.dropout,
        **_experts(fields, kind),
    )


def _experts(fields: Fields, kind: str) -> dict[str, Any]:
    own = fields.tenfold
    if kind in ("llama", "qwen3") or (kind == "tenfold_decoder" and own.moe is None):
        return {}
    if own.moe is not None:
        return {"moe": own.moe, "moe_every": own.moe_every, "moe_offset": own.moe_offset}
    hidden = fields.intermediate_size if kind == "mixtral" else _given(fields, "moe_intermediate_size")
    moe = MoEConfig(
        dim=fields.hidden_size,
        hidden=hidden,
        num_experts=fields.num_local_experts or _given(fields, "num_experts"),
        top_k=_given(fields, "num_experts_per_tok"),
        router="topk",
        dropless=True,
        normalize=kind == "mixtral" or fields.norm_topk_prob,
        lb_weight=fields.router_aux_loss_coef,
    )
    return {"moe": moe} | _placement(fields, kind)


def _given(fields: Fields, name: str) -> int:
    value: int | None = getattr(fields, name)
    if value is None:
        raise ValueError(f"{name}: missing, need int")
    return value


def _placement(fields: Fields, kind: str) -> dict[str, int]:
    """Which layers are sparse, as a period and an offset."""
    if kind == "mixtral":
        return {"moe_every": 1, "moe_offset": 0}
    layers, step, dense = fields.num_hidden_layers, fields.decoder_sparse_step, set(fields.mlp_only_layers or [])
    sparse = [i for i in range(step - 1, layers, step) if i not in dense]
    if sparse:
        # One sparse layer repeats with a period that reaches past both ends.
        offset, every = sparse[0], sparse[1] - sparse[0] if len(sparse) > 1 else layers
        if list(range(offset, layers, every)) == sparse and offset < every:
            return {"moe_every": every, "moe_offset": offset}
    raise ValueError(f"mlp_only_layers: sparse layers {reprlib.repr(sparse)} do not repeat with one period")


def _rope_base(fields: Fields, kind: str) -> float:
    base = (fields.rope_parameters or {}).get("rope_theta") or fields.rope_theta or DEFAULT_BASE.get(kind, 5e5)
    if not isinstance(base, int | float) or not math.isfinite(base):
        raise ValueError(f"rope_theta: got {reprlib.repr(base)}, need a finite number")
    return float(base)


def _refuse_unsupported(fields: Fields) -> None:
    """Options that would change the numbers and that this decoder does not compute."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(fields, name) or {}
        scaling = rope.get("rope_type", rope.get("type", "default"))
        # Newer files may hold one set of parameters per kind of layer.
        nested = any(isinstance(value, Mapping) for value in rope.values())
        if scaling != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0 or nested:
            shown = reprlib.repr(rope)
            raise ValueError(f"{name} {shown} is not supported, need rope_type default on the whole head")
    if fields.partial_rotary_factor != 1.0:
        raise ValueError(f"partial_rotary_factor {fields.partial_rotary_factor} is not supported, need 1")
    windowed = fields.sliding_window is not None and fields.use_sliding_window
    if windowed or set(fields.layer_types or ["full_attention"]) != {"full_attention"}:
        raise ValueError(f"sliding-window attention is not supported (sliding_window {fields.sliding_window})")
    for name, needed in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if getattr(fields, name) != needed:
            raise ValueError(f"{name} {getattr(fields, name)} is not supported, need {needed}")
    if fields.quantization_config:
        raise ValueError("quantized weights are not supported; take the unquantized checkpoint")
