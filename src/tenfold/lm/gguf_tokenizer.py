"""A tokenizer as the metadata of a GGUF file, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from tenfold.core.errors import UserError
from tenfold.text.tokenizer import BYTE_PIECES, Tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6  # token types
BYTE_LEVEL, BYTE_FALLBACK = "gpt2", "gemma4"  # tokenizer models, by the families that brought them
WHOLE = "tokenizer.huggingface.json"  # where GGUF sets room aside for the content of a tokenizer.json
MOST_WHOLE = 1 << 26  # characters of it that are read; a vocabulary of 256 thousand takes a quarter
BLANK = "▁"  # stands for a space in byte-fallback vocabularies

# How byte-level vocabularies cut text, by llama.cpp's name. None is the expression that the ByteLevel cutter has built in.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {
    "smollm": None,
    "gpt-2": None,
    "default": None,
    "qwen2": QWEN2,
    "llama-bpe": QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),
}
IDS = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "eot": "end_token"}  # GGUF's names and ours


def tokenizer_from_fields(fields: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer that the metadata describe: the whole tokenizer.json if it is there, else a byte-level BPE.

    Args:
        fields: metadata by key; not trusted.
        where: the file, for error messages.
    Raises:
        UserError: another kind of tokenizer, one whose way to cut text is unknown, a tokenizer.json that does not fit.
        Exception: of any kind, for fields that are missing or of another type.
    """
    whole = fields.get(WHOLE)
    backend = (
        _byte_level(fields, where) if whole is None else _whole(whole, len(fields["tokenizer.ggml.tokens"]), where)
    )
    texts: dict[str, str] = {}
    for name, ours in IDS.items():
        if (id := fields.get(f"tokenizer.ggml.{name}_token_id")) is not None:
            if (token := backend.id_to_token(id)) is None:
                raise ValueError(f"tokenizer.ggml.{name}_token_id: got {id}, which names no token")
            texts[ours] = token
    template = fields.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"tokenizer.chat_template: got {type(template).__name__}, need text")
    return Tokenizer(backend, **texts, chat_template=template)


def tokenizer_to_fields(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The metadata that describe a tokenizer; `gguf_write.write_gguf` says what other readers make of them.

    Args:
        tokenizer: a byte-level BPE that cuts text in one of the ways of `CUTS`, or one as `train_tokenizer` makes them.
        rows: of the embedding, at least the tokens; names without use fill the rest, as llama.cpp wants one for each.
    Raises:
        UserError: more tokens than rows, or a kind of tokenizer that no field describes.
    """
    highest = max(tokenizer.backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= rows:
        raise UserError(f"tokenizer: its highest token id is {highest}, but the model's embedding has {rows} rows")
    content = tokenizer.backend.to_str()
    state = json.loads(content)
    model, cut = _kind(state)
    tokens, types = _tokens(tokenizer, rows, model)
    fields: dict[str, Any] = {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": _merges(state["model"]["merges"], model),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id, "eot": tokenizer.end_id}
    if tokenizer.end_id == tokenizer.eos_id:
        del ids["eot"]
    fields |= {f"tokenizer.ggml.{name}_token_id": id for name, id in ids.items() if id is not None}
    if tokenizer.chat_template is not None:
        fields["tokenizer.chat_template"] = tokenizer.chat_template
    if model == BYTE_FALLBACK or _byte_level(fields, "").to_str() != content:
        if len(content) > MOST_WHOLE:
            raise UserError(f"tokenizer: its tokenizer.json has {len(content)} characters, need at most {MOST_WHOLE}")
        fields[WHOLE] = content
    return fields


def _whole(content: str, rows: int, where: str) -> tokenizers.Tokenizer:
    if len(content) > MOST_WHOLE:
        raise UserError(f"{where}: {WHOLE}: got {len(content)} characters, need at most {MOST_WHOLE}")
    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:
        raise UserError(f"{where}: {WHOLE} does not parse: {' '.join(str(error).split())[:200]}") from error
    highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= rows:
        raise UserError(f"{where}: {WHOLE}: got token id {highest}, need ids below {rows} (tokens of the file)")
    return backend


def _byte_level(fields: Mapping[str, Any], where: str) -> tokenizers.Tokenizer:
    model, cut = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if model != BYTE_LEVEL or cut not in CUTS:
        raise UserError(f"{where}: tokenizer {model}/{cut} is not supported, need {BYTE_LEVEL} with {', '.join(CUTS)}")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields.get("tokenizer.ggml.merges", [])]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    # The Llama 3 family takes a word that is a token as it is, whatever the merges make of it.
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut == "llama-bpe"))
    backend.pre_tokenizer = _cutter(cut)
    backend.decoder = decoders.ByteLevel()
    added = [
        AddedToken(token, special=type == CONTROL, normalized=False)
        for token, type in zip(tokens, types, strict=True)
        if type in (CONTROL, USER_DEFINED)
    ]
    backend.add_special_tokens([token for token in added if token.special])
    backend.add_tokens([token for token in added if not token.special])
    return backend


def _cutter(name: str) -> pre_tokenizers.PreTokenizer:
    if (expression := CUTS[name]) is not None:
        split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    digits = [pre_tokenizers.Digits(individual_digits=True)] if name == "smollm" else []
    return pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _kind(state: Mapping[str, Any]) -> tuple[str, str]:
    """The names of a tokenizer's model and of its way to cut text."""
    model, decoder, normalizer = state["model"], state["decoder"] or {}, (state["normalizer"] or {}).get("type")
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if model["type"] == "BPE" and not affixes:
        if decoder.get("type") == "ByteLevel" and normalizer in (None, "NFC"):
            for name in CUTS:
                if _steps(state["pre_tokenizer"]) == _steps(_state(_cutter(name))):
                    return BYTE_LEVEL, name
        # Tokens are joined as they are, so a space is a space in them.
        joined = [step["type"] for step in decoder.get("decoders", [])] == ["ByteFallback", "Fuse"]
        if model["byte_fallback"] and joined and normalizer is None:
            return BYTE_FALLBACK, BYTE_FALLBACK
    raise UserError(
        "tokenizer: GGUF files are written for byte-level BPE that cuts text as "
        f"{', '.join(CUTS)} do and for byte-fallback BPE of our own; save a folder instead"
    )


def _state(cutter: pre_tokenizers.PreTokenizer) -> dict[str, Any]:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = cutter
    state: dict[str, Any] = json.loads(backend.to_str())["pre_tokenizer"]
    return state


def _steps(cutter: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What decides where text is cut; trim_offsets moves reported positions only."""
    steps = (cutter or {}).get("pretokenizers", [cutter or {}])
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def _tokens(tokenizer: Tokenizer, rows: int, model: str) -> tuple[list[str], list[int]]:
    """Text and type of every id. All texts differ: readers look ids up by them."""
    texts = [tokenizer.backend.id_to_token(id) for id in range(rows)]
    added = tokenizer.backend.get_added_tokens_decoder()
    types = [NORMAL] * rows
    for id, text in enumerate(texts):
        if id in added:
            types[id] = CONTROL if added[id].special else USER_DEFINED
        elif model == BYTE_FALLBACK and text is not None:
            types[id] = BYTE if text in BYTE_PIECES else NORMAL
            texts[id] = text.replace(" ", BLANK)
    owner: dict[str, int] = {}
    # A token that was written with the mark itself gives way to the one with a space.
    for id in sorted(range(rows), key=lambda id: BLANK in (tokenizer.backend.id_to_token(id) or "")):
        if (text := texts[id]) is not None:
            owner.setdefault(text, id)
    for id, text in enumerate(texts):
        if text is None or owner[text] != id:
            name = f"[PAD{id}]"
            while name in owner:
                name += "]"
            owner[name] = id
            texts[id], types[id] = name, UNUSED
    return [text for text in texts if text is not None], types


def _merges(merges: Sequence[Sequence[str]], model: str) -> list[str]:
    """Merges in order, the two parts with a space between.

    Readers of byte-fallback vocabularies do not cut text into words first. Two changes, which no word sees, bring them
    close to cutting: merges of blanks come last, so that a word takes the space before it first; and none makes a token
    that ends in a line end or tab, since the last of these before a word stands alone.
    """
    if model == BYTE_FALLBACK:
        words = [pair for pair in merges if "".join(pair).strip()]
        blanks = [pair for pair in merges if not "".join(pair).strip() and pair[1].endswith(" ")]
        merges = [[part.replace(" ", BLANK) for part in pair] for pair in words + blanks]
    return [" ".join(pair) for pair in merges]
