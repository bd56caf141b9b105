"""Decoder checkpoints as Hugging Face folders: Llama, Qwen3, Mixtral, Qwen3-MoE, and our own mixed ones.

What Hugging Face's classes can compute is written under their architecture name and opens there with equal logits.
The rest (a norm after the rotation, sparse layers between dense ones, expert capacity) is written as "TenfoldDecoder",
with the same tensor names as Llama and Mixtral. Fields that config.json has no name for stand under "tenfold".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, FLOATS, listed, read_tensors, whole_state, write_folder
from tenfold.lm.config_json import config_from_json, config_to_json
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn.lora_layer import adapters
from tenfold.nn.rotary import half_to_interleaved, interleaved_to_half

# Names of one expert's three matrices, and of the sparse layer that holds them, in the two layouts.
MIXTRAL = "block_sparse_moe", ("w1", "w3", "w2")
QWEN3_MOE = "mlp", ("gate_proj", "up_proj", "down_proj")


def write_decoder(model: Decoder, folder: Path, *, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write config.json and model.safetensors (above `max_shard_bytes`: numbered shards and their index).

    All new files stand whole beside an older checkpoint before they take its place; config.json comes last, so a folder
    with one is complete. Other files, say a tokenizer's, stay.

    Args:
        model: what to write; weights keep their type.
        folder: made if missing; an older checkpoint in it is replaced.
        max_shard_bytes: most bytes of tensors in one file.
    Raises:
        ValueError: weights that are spread over processes, adapters, palettized layers.
    """
    state = plain_state(model)
    config = config_to_json(model.cfg)
    dtype = next(model.parameters()).dtype
    config["dtype"] = config["torch_dtype"] = str(dtype).removeprefix("torch.")
    write_folder(folder, config, to_hf(state, model.cfg), max_shard_bytes=max_shard_bytes)


def plain_state(model: Decoder) -> dict[str, Tensor]:
    """The state dict of a model that has the tensors of its configuration and no other.

    Raises:
        ValueError: weights that are spread over processes, adapters, palettized layers.
    """
    state = whole_state(model)
    if names := adapters(model):
        raise ValueError(
            f"model: has adapters ({listed(names)}); save them on their own, merge one, or unload (nn.lora)"
        )
    with torch.device("meta"):
        wanted = Decoder(model.cfg).state_dict()
    if odd := sorted(wanted.keys() ^ state.keys()):
        raise ValueError(
            f"model: its tensors are not those of its config ({listed(odd)}); write a palettized one with "
            "compress.compressed_folder.save_palettized"
        )
    return state


def read_decoder(path: Path, *, dtype: torch.dtype | None = None, overrides: Mapping[str, object]) -> Decoder:
    """Read a decoder from a folder or a .gguf file; see `Decoder.from_pretrained`."""
    if path.suffix == ".gguf":
        from tenfold.lm.gguf import read_gguf

        config, tensors = read_gguf(path)
    else:
        config = _read_config(path)
        config_from_json(config, str(path))  # refuse before the weights are read
        tensors = read_tensors(path)
    return build_decoder(config, tensors, where=str(path), dtype=dtype, overrides=overrides)


def build_decoder(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    dtype: torch.dtype | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Decoder:
    """A decoder from what config.json says and the tensors by their Hugging Face names.

    Args:
        config: the content of config.json.
        tensors: by name; those without the `model.` prefix are the same model saved without its output layer.
        where: the source, for error messages.
        dtype: type of the weights; None keeps the stored one.
        overrides: fields of the configuration to change.
    Raises:
        UserError: an unsupported option, or tensors that do not fit the configuration, all of them listed.
    """
    cfg = config_from_json(config, where)
    fields = {field.name for field in dataclasses.fields(DecoderConfig)}
    if unknown := sorted(set(overrides or {}) - fields):
        raise UserError(f"{where}: unknown field {', '.join(unknown)}; known: {', '.join(sorted(fields))}")
    wanted = dataclasses.replace(cfg, **overrides) if overrides else cfg  # type: ignore[arg-type]
    # Before the model is built: a config of a few bytes can ask for any number of layers.
    layers = {match[1] for name in tensors if (match := re.match(r"(?:model\.)?layers\.(\d+)\.", name))}
    if cfg.n_layers > len(layers):
        raise UserError(f"{where}: num_hidden_layers: got {cfg.n_layers}, need at most {len(layers)} (in the tensors)")
    # Files hold the half layout, so the rows are ordered for the layout that is wanted, not for the one of the config.
    with torch.device("meta"):
        model = Decoder(dataclasses.replace(cfg, rope_layout=wanted.rope_layout))
    state = from_hf(tensors, model, where)
    if wanted != cfg:
        with torch.device("meta"):
            model = Decoder(wanted)
        _match({name: tensor.shape for name, tensor in model.state_dict().items()}, state, where)
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    return model if dtype is None else model.to(dtype)


def to_hf(state: Mapping[str, Tensor], cfg: DecoderConfig) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names and layouts.

    Rows of queries and keys go from the interleaved to the half layout, which those classes compute; expert stacks
    (E, in, out) become one (out, in) matrix an expert.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer = int(name.split(".")[1]) if name.startswith("layers.") else -1
        if layer >= 0 and ".mlp." in name and cfg.is_sparse(layer):
            out |= _experts_to_hf(name, tensor, cfg)
            continue
        if cfg.rope_layout == "interleaved" and (heads := _rotary_heads(name, cfg)):
            tensor = interleaved_to_half(tensor, heads)
        out[name if name.startswith("lm_head.") else f"model.{name}"] = tensor
    return out


def from_hf(tensors: Mapping[str, Tensor], model: Decoder, where: str) -> dict[str, Tensor]:
    """The state dict of `model` (which may be on the meta device) from tensors by their Hugging Face names.

    Raises:
        UserError: tensors missing, extra or of a wrong shape (listed); an output layer that differs from the tied one.
    """
    cfg = model.cfg
    own = model.state_dict()
    if odd := [f"{name} {str(t.dtype).removeprefix('torch.')}" for name, t in tensors.items() if t.dtype not in FLOATS]:
        raise UserError(f"{where}: weights of a type that is not read: {listed(odd, 20)}; need float16 to float64")
    given = _canonical(tensors, cfg)
    _check_tied(given, cfg, where)
    _match({name: tensor.shape for name, tensor in to_hf(own, cfg).items()}, given, where)
    state: dict[str, Tensor] = {}
    for name, slot in own.items():
        layer = int(name.split(".")[1]) if name.startswith("layers.") else -1
        if layer >= 0 and ".mlp." in name and cfg.is_sparse(layer):
            state[name] = _experts_from_hf(name, slot, given, cfg)
            continue
        tensor = given[name if name.startswith("lm_head.") else f"model.{name}"]
        if cfg.rope_layout == "interleaved" and (heads := _rotary_heads(name, cfg)):
            tensor = half_to_interleaved(tensor, heads)
        state[name] = tensor
    return state


def _rotary_heads(name: str, cfg: DecoderConfig) -> int:
    """Heads whose rows the rotation pairs up in this tensor; 0 for the tensors it does not touch."""
    part = name.split(".")[-2]
    return {"q_proj": cfg.n_heads, "k_proj": cfg.n_kv_heads, "q_norm": 1, "k_norm": 1}.get(part, 0)


def _layout(cfg: DecoderConfig) -> tuple[str, tuple[str, str, str]]:
    return QWEN3_MOE if config_to_json(cfg)["model_type"] == "qwen3_moe" else MIXTRAL


def _experts_to_hf(name: str, tensor: Tensor, cfg: DecoderConfig) -> dict[str, Tensor]:
    block, matrices = _layout(cfg)
    start, part = name.split(".mlp.")
    prefix = f"model.{start}.{block}"
    if part == "gate_weight":
        return {f"{prefix}.gate.weight": tensor.T}
    if part in ("w0", "w1", "w2"):
        matrix = matrices[int(part[1])]
        return {f"{prefix}.experts.{e}.{matrix}.weight": tensor[e].T for e in range(tensor.shape[0])}
    return {f"{prefix}.{part}": tensor}  # biases, shared expert, selection bias: no Mixtral has them


def _experts_from_hf(name: str, slot: Tensor, given: Mapping[str, Tensor], cfg: DecoderConfig) -> Tensor:
    names = list(_experts_to_hf(name, slot, cfg))
    if name.endswith(".gate_weight"):
        return given[names[0]].T.contiguous()
    if slot.ndim == 3 and len(names) == slot.shape[0]:
        return torch.stack([given[each].T for each in names])
    return given[names[0]]


def _canonical(tensors: Mapping[str, Tensor], cfg: DecoderConfig) -> dict[str, Tensor]:
    """Names as `to_hf` writes them: `model.` in front, experts one by one, no rotary tables."""
    bare = not any(name.startswith("model.") for name in tensors)
    block, matrices = _layout(cfg)
    gate, up, down = matrices
    others = MIXTRAL[1] if matrices == QWEN3_MOE[1] else QWEN3_MOE[1]
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("rotary_emb.inv_freq"):
            continue  # old files carry the tables, which follow from the base
        name = f"model.{name}" if bare and not name.startswith("lm_head.") else name
        sparse = re.fullmatch(r"(model\.layers\.\d+)\.(?:mlp|block_sparse_moe)\.(gate\.weight|experts\..+)", name)
        if sparse is None:
            out[name] = tensor
            continue
        start, part = f"{sparse[1]}.{block}", sparse[2]
        if part.endswith("_proj") and (tensor.ndim != 3 or tensor.shape[1] < 2):
            out[name] = tensor  # no stack of experts: listed among the tensors that do not fit
        elif part == "experts.gate_up_proj":  # fused (E, 2H, M)
            for e, both in enumerate(tensor):
                out[f"{start}.experts.{e}.{gate}.weight"], out[f"{start}.experts.{e}.{up}.weight"] = both.chunk(2)
        elif part == "experts.down_proj":
            out |= {f"{start}.experts.{e}.{down}.weight": one for e, one in enumerate(tensor)}
        else:
            for here, there in zip(matrices, others, strict=True):
                part = part.replace(f".{there}.", f".{here}.")
            out[f"{start}.{part}"] = tensor
    return out


def _check_tied(given: dict[str, Tensor], cfg: DecoderConfig, where: str) -> None:
    """An output layer beside tied embeddings must equal them; it is then dropped."""
    head = given.get("lm_head.weight")
    if head is None or not cfg.tie_embeddings:
        return
    if not torch.equal(head, given.get("model.embed_tokens.weight", head)):
        raise UserError(
            f"{where}: lm_head.weight differs from the embedding although the config ties them; "
            'set "tie_word_embeddings": false in config.json'
        )
    del given["lm_head.weight"]


def _match(wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor], where: str) -> None:
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    wrong = [
        f"{name} {tuple(given[name].shape)} (need {tuple(shape)})"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    faults = [
        f"{kind} {listed(names, 20)}"
        for kind, names in (("missing", missing), ("extra", extra), ("wrong shape", wrong))
        if names
    ]
    if faults:
        raise UserError(f"{where}: tensors do not fit the config: {'; '.join(faults)}")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"model not found: {path} (need a folder with config.json and safetensors, or a .gguf file)")
    return read_object(path)
