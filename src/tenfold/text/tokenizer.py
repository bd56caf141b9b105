"""Byte-fallback BPE tokenizer: training, lossless text in and out, chat templates, Hugging Face files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.text.chat_template import CHAT_TEMPLATE, render_parts

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# A word keeps the space in front of it, as an ordinary character; runs of space give their last one to the word.
WORDS = r" ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}]+|\s+(?!\S)|\s+"


MOST_TOKENS = 1_000_000  # of a trained vocabulary; the trainer reserves memory for all of them


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level vocabularies write bytes with: itself where it is a printable character, else one from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_LETTERS = _byte_letters()


class Tokenizer:
    """Text to token ids and back; wraps a `tokenizers.Tokenizer`.

    Args:
        backend: the trained tokenizer.
        bos_token, eos_token, pad_token: control tokens by their text; None where the vocabulary has none.
        end_token: closes a chat turn; None takes eos_token.
        chat_template: Jinja template over `messages`, `add_generation_prompt` and the token texts; None for no chat.
    Raises:
        UserError: a control token that is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
        end_token: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.backend = backend
        self.bos_token, self.eos_token, self.pad_token = bos_token, eos_token, pad_token
        self.end_token = eos_token if end_token is None else end_token
        self.chat_template = chat_template
        self.bos_id, self.eos_id = self._id(bos_token), self._id(eos_token)
        self.pad_id, self.end_id = self._id(pad_token), self._id(self.end_token)
        self._special = {token.content: id for id, token in backend.get_added_tokens_decoder().items() if token.special}

    @property
    def vocab_size(self) -> int:
        """Number of token ids, control tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def token_id(self, token: str) -> int:
        """Id of one token by its text, control tokens too."""
        id = self.backend.token_to_id(token)
        if id is None:
            raise UserError(f"tokenizer: no token {token!r} in the vocabulary of {self.vocab_size}")
        return id

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; the literal text of a control token is text like any other."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, in parallel where the machine allows.

        Raises:
            UserError: a text that is no string or holds half of a surrogate pair, which no UTF-8 can spell.
        """
        self.backend.encode_special_tokens = True
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            raise UserError(_unencodable(texts)) from error
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids.

        Args:
            ids: token ids; a torn UTF-8 sequence at an end becomes U+FFFD.
            skip_special_tokens: leave control tokens out.
        Raises:
            ValueError: an id that names no token.
        """
        ids = list(ids)
        for id in set(ids):
            if not 0 <= id < 1 << 32 or self.backend.id_to_token(id) is None:
                raise ValueError(f"ids: got token {id}, need 0..{self.vocab_size - 1} (vocab_size)")
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for: perhaps a part of a character only.

        Raises:
            ValueError: an id that names no token.
        """
        token = self.backend.id_to_token(id) if 0 <= id < 1 << 32 else None
        if token is None:
            raise ValueError(f"ids: got token {id}, need 0..{self.vocab_size - 1} (vocab_size)")
        if piece := re.fullmatch("<0x([0-9A-F]{2})>", token):
            return bytes.fromhex(piece[1])
        if "ByteLevel" in repr(self.backend.decoder) and all(letter in _BYTE_LETTERS for letter in token):
            return bytes(_BYTE_LETTERS[letter] for letter in token)
        return self.decode([id]).encode()

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> list[int]:
        """Token ids of a conversation. Only the template makes control tokens; no text that is given to it does.

        Args:
            messages: `{"role", "content"}` and whatever else the template reads.
            add_generation_prompt: end with the opening of an assistant turn.
            variables: more names for the template, say `tools` (see `render_parts`).
        Raises:
            UserError: no template, no messages, or the template refuses them.
        """
        if self.chat_template is None:
            raise UserError("chat template: this tokenizer has none; take one whose tokenizer_config.json names it")
        variables["add_generation_prompt"] = add_generation_prompt
        tokens = {"bos_token": self.bos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}
        named = {name: token or "" for name, token in tokens.items()}
        ids: list[int] = []
        for text, control in render_parts(self.chat_template, messages, variables, named, self._special):
            ids += [self._special[text]] if control else self.encode(text)
        return ids

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as Hugging Face's AutoTokenizer reads them.

        Beside them generation_config.json, so that its `generate` stops at the end of a turn.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        named = {
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "end_of_turn_token": self.end_token,
            "chat_template": self.chat_template,
        }
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= {key: value for key, value in named.items() if value is not None}
        write_atomic(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        write_atomic(folder / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=1))
        ends = sorted({id for id in (self.eos_id, self.end_id) if id is not None})
        ids = {"bos_token_id": self.bos_id, "eos_token_id": ends or None, "pad_token_id": self.pad_id}
        known = {key: value for key, value in ids.items() if value is not None}
        write_atomic(folder / "generation_config.json", json.dumps(known, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a folder with tokenizer.json; control tokens and chat template come from tokenizer_config.json.

        Raises:
            UserError: no tokenizer.json, or a file that does not parse.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"tokenizer not found: {path} (the folder needs a tokenizer.json)")
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:
            raise UserError(f"tokenizer: {path} does not parse: {' '.join(str(error).split())}") from error
        path = folder / "tokenizer_config.json"
        config = _read_json(path)
        template = _template(config.get("chat_template"), path)
        beside = folder / "chat_template.jinja"
        if template is None and beside.is_file():
            try:
                template = beside.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"tokenizer: {beside} is not UTF-8 (byte {error.start})") from error
        names = ("bos_token", "eos_token", "pad_token")
        tokens = {name: _token_text(config, name, path) for name in names}
        end_token = _token_text(config, "end_of_turn_token", path)
        return cls(backend, **tokens, end_token=end_token, chat_template=template)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.token_id(token)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE tokenizer with single digits and byte fallback, without Unicode normalisation.

    Args:
        texts: training text; a character too rare for the alphabet is spelt in bytes.
        vocab_size: ids at most, control tokens and the 256 byte pieces included; little text gives fewer.
    Returns:
        the tokenizer, with our control tokens and chat template.
    Raises:
        ValueError: vocab_size below 272 (8 control tokens, 256 bytes, a few characters) or above a million.
    Source: AFM, arXiv 2407.21075 (BPE, split digits, byte fallback).
    """
    fixed = len(SPECIAL_TOKENS) + len(BYTE_PIECES)
    if not fixed + 8 <= vocab_size <= MOST_TOKENS:
        need = f"{fixed + 8} (control tokens, bytes, characters) to {MOST_TOKENS}"
        raise ValueError(f"vocab_size: got {vocab_size}, need {need}")
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split(Regex(WORDS), behavior="isolated")]
    )
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    texts = list(texts)
    # Rare characters would eat the room of the merges; they are spelt in bytes.
    alphabet = _frequent_characters(texts, max(8, min(1000, (vocab_size - fixed) // 4)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *BYTE_PIECES],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        max_token_length=32,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # The trainer leaves the byte pieces among the added tokens, where the literal text "<0x0A>" would become a newline.
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    return Tokenizer(
        tokenizers.Tokenizer.from_str(json.dumps(state)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        end_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
    )


def _frequent_characters(texts: Sequence[str], most: int) -> list[str]:
    """The trainer's own choice breaks ties by a random hash; here equal counts go by code point."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return sorted(counts, key=lambda character: (-counts[character], character))[:most]


def _unencodable(texts: Sequence[str]) -> str:
    """What the backend, which only says "TypeError", dislikes about these texts."""
    for text in texts:
        if not isinstance(text, str):
            return f"text: got {type(text).__name__}, need a string"
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"text: got half of a surrogate pair (character {error.start}), need whole Unicode characters"
    return "text: the tokenizer refuses it"


def _token_text(config: Mapping[str, Any], name: str, path: Path) -> str | None:
    """Hugging Face writes a token as its text or as an object with `content`."""
    token = config.get(name)
    token = token.get("content") if isinstance(token, Mapping) else token
    if token is None or isinstance(token, str):
        return token
    raise UserError(f"tokenizer: {path}: {name}: got {type(token).__name__}, need text")


def _template(entry: Any, path: Path) -> str | None:
    """Hugging Face writes one template as its text, several as a list of objects with `name` and `template`."""
    if isinstance(entry, list):
        named = (each.get("template") for each in entry if isinstance(each, dict) and each.get("name") == "default")
        entry = next(named, entry)
    if entry is None or isinstance(entry, str):
        return entry
    raise UserError(
        f"tokenizer: {path}: chat_template: got {type(entry).__name__}, need text, or a list with an entry named default"
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"tokenizer: {path} does not parse: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"tokenizer: {path}: got {type(content).__name__}, need a JSON object")
    return content
