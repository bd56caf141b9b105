"""Byte-fallback BPE tokenizer: training, lossless text in and out, chat templates, Hugging Face files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('role: got ' ~ message['role'] ~ ', need system, user, assistant or tool') }}{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# A word keeps the space in front of it, as an ordinary character; runs of space give their last one to the word.
WORDS = r" ?[\p{L}\p{M}]+| ?[^\s\p{L}\p{M}]+|\s+(?!\S)|\s+"


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
        """`encode` of many texts, in parallel where the machine allows."""
        self.backend.encode_special_tokens = True
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids.

        Args:
            ids: token ids; a torn UTF-8 sequence at an end becomes U+FFFD.
            skip_special_tokens: leave control tokens out.
        """
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> list[int]:
        """Token ids of a conversation. Only the template makes control tokens, message texts never do.

        Args:
            messages: `{"role", "content"}` and whatever else the template reads.
            add_generation_prompt: end with the opening of an assistant turn.
            variables: more names for the template, say `tools`.
        Raises:
            UserError: no template, no messages, or the template refuses them.
        """
        shield = _Shield(messages, self._special)
        text = self._render(shield.messages, add_generation_prompt, variables)
        ids: list[int] = []
        for part in shield.split(text):
            ids += [self._special[part]] if part in self._special else self.encode(shield.restore(part))
        return ids

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """The conversation as the template writes it."""
        return self._render(messages, add_generation_prompt, variables)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as Hugging Face's AutoTokenizer reads them."""
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
            raise UserError(f"tokenizer: {path} does not parse: {error}") from error
        config = _read_json(folder / "tokenizer_config.json")
        template = config.get("chat_template")
        if template is None and (folder / "chat_template.jinja").is_file():
            template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        names = ("bos_token", "eos_token", "pad_token")
        tokens = {name: _token_text(config.get(name)) for name in names}
        end_token = _token_text(config.get("end_of_turn_token"))
        return cls(backend, **tokens, end_token=end_token, chat_template=template)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.token_id(token)

    def _render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, variables: dict) -> str:
        if self.chat_template is None:
            raise UserError("chat template: this tokenizer has none; take one whose tokenizer_config.json names it")
        if not messages:
            raise UserError("messages: got an empty list, need at least one message")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        try:
            return environment.from_string(self.chat_template).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token or "",
                eos_token=self.eos_token or "",
                pad_token=self.pad_token or "",
                **variables,
            )
        except TemplateError as error:
            raise UserError(f"messages: the chat template refuses them: {error}") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE tokenizer with single digits and byte fallback, without Unicode normalisation.

    Args:
        texts: training text; a character too rare for the alphabet is spelt in bytes.
        vocab_size: ids at most, control tokens and the 256 byte pieces included; little text gives fewer.
    Returns:
        the tokenizer, with our control tokens and chat template.
    Raises:
        ValueError: vocab_size below 272 (8 control tokens, 256 bytes, a few characters).
    Source: AFM, arXiv 2407.21075 (BPE, split digits, byte fallback).
    """
    fixed = len(SPECIAL_TOKENS) + len(BYTE_PIECES)
    if vocab_size < fixed + 8:
        raise ValueError(f"vocab_size: got {vocab_size}, need at least {fixed + 8} (control tokens, bytes, characters)")
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


class _Shield:
    """Hides control tokens that stand literally in message texts while a template is rendered.

    Each becomes a number between two private-use characters that no message contains.
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]], special: Mapping[str, int]) -> None:
        # Longest first, so that no control token hides inside another.
        self._tokens = sorted(special, key=len, reverse=True)
        everything = json.dumps([dict(message) for message in messages], ensure_ascii=False, default=str)
        free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in everything)
        self._open, self._close = next(free), next(free)
        self.messages = [self._hide(dict(message)) for message in messages]

    def _hide(self, value: Any) -> Any:
        if isinstance(value, str):
            for i, token in enumerate(self._tokens):
                value = value.replace(token, f"{self._open}{i}{self._close}")
            return value
        if isinstance(value, Mapping):
            return {key: self._hide(item) for key, item in value.items()}
        return [self._hide(item) for item in value] if isinstance(value, list | tuple) else value

    def restore(self, text: str) -> str:
        """The literal text again."""
        for i, token in enumerate(self._tokens):
            text = text.replace(f"{self._open}{i}{self._close}", token)
        return text

    def split(self, text: str) -> list[str]:
        """Cut rendered text at the control tokens, which stay as parts of their own."""
        parts = [text]
        for token in self._tokens:
            cut: list[str] = []
            for part in parts:
                if part in self._tokens:
                    cut.append(part)
                    continue
                pieces = part.split(token)
                cut += [piece for pair in zip([token] * len(pieces), pieces, strict=True) for piece in pair][1:]
            parts = [part for part in cut if part]
        return parts


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _token_text(token: Any) -> str | None:
    """Hugging Face writes a token as its text or as an object with `content`."""
    return token.get("content") if isinstance(token, Mapping) else token


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"tokenizer: {path} does not parse: {error}") from error
