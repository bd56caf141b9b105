"""Captions to the states that a text-to-image model attends to: a small encoder to train, and pretrained ones."""

# Shape legend: B captions, L tokens, D width

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core.atomic import replacing
from tenfold.core.config import from_json, read_json
from tenfold.core.errors import UserError
from tenfold.text.words import normalised_words

NULL, UNKNOWN, FIRST_WORD = 0, 1, 2  # ids; NULL also fills up the shorter captions of a batch, masked
CONFIG, WEIGHTS = "config.json", "model.safetensors"
INIT_STD = 0.02
LISTED = 40  # words of a vocabulary that a message has room for

Kind = Literal["t5", "clip", "bert"]
# The class in transformers, and what its config.json calls itself.
_KINDS = {
    "t5": ("T5EncoderModel", ("t5",)),
    "clip": ("CLIPTextModel", ("clip", "clip_text_model")),
    "bert": ("BertModel", ("bert",)),
}


@dataclass(frozen=True)
class _Settings:
    """What a folder's config.json holds: the arguments of `WordEncoder`."""

    vocab: tuple[str, ...]
    d: int
    layers: int
    num_heads: int
    max_length: int
    allow_unk: bool

    def __post_init__(self) -> None:
        if not self.vocab:
            raise ValueError("vocab: got no words, need at least one")
        for name in ("d", "num_heads", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        if self.layers < 0:
            raise ValueError(f"layers: got {self.layers}, need 0 or more")
        if self.d % self.num_heads:
            raise ValueError(f"d: got {self.d}, need a multiple of num_heads = {self.num_heads}")


class WordEncoder(nn.Module):
    """A transformer over the words of a small closed world, trained together with the model that reads its states.

    Case and punctuation make no difference. The caption "" is one null token: the text that stands in for captions
    dropped in training.

    Args:
        vocab: words, or whole captions whose words are meant; ids follow the sorted order of the words.
        d: width of the states.
        layers: transformer blocks; with 0 a state is its word and its place alone.
        num_heads: attention heads, a divisor of d.
        max_length: most words of a caption.
        allow_unk: read words outside the vocabulary as one unknown word, which starts at 0, instead of refusing them.
        generator: where the weights are drawn from; None is torch's random state.
    Raises:
        ValueError: no words, a size out of range.
    """

    def __init__(
        self,
        vocab: Sequence[str],
        d: int,
        layers: int = 2,
        *,
        num_heads: int = 4,
        max_length: int = 32,
        allow_unk: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_texts("vocab", vocab)
        words = tuple(sorted({word for entry in vocab for word in normalised_words(entry)}))
        self.settings = _Settings(words, d, layers, num_heads, max_length, allow_unk)
        self._ids = {word: index for index, word in enumerate(words, FIRST_WORD)}
        self.word_table = nn.Parameter(torch.empty(FIRST_WORD + len(words), d))
        self.place_table = nn.Parameter(torch.empty(max_length, d))
        self.blocks = nn.ModuleList(_Block(d, num_heads) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self._draw(generator)

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary, in the order of its ids."""
        return self.settings.vocab

    @property
    def dim(self) -> int:
        """Width of the states."""
        return self.settings.d

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions to ids int64 (B, L) and mask bool (B, L), where L is the longest caption's.

        Raises:
            UserError: words outside the vocabulary (the first five named), a caption of more than max_length words.
        """
        _check_texts("captions", captions)
        rows = [normalised_words(caption) for caption in captions]
        unknown = list(dict.fromkeys(word for row in rows for word in row if word not in self._ids))
        if unknown and not self.settings.allow_unk:
            named = ", ".join(repr(word[:40]) for word in unknown[:5])
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            close = difflib.get_close_matches(unknown[0], self.words, n=1, cutoff=0.8)
            hint = f" (did you mean {close[0]}?)" if close else ""
            known = f" ({' '.join(word[:40] for word in self.words)})" if len(self.words) <= LISTED else ""
            raise UserError(
                f"caption: {named}{more} not among the {len(self.words)} words of the vocabulary{hint}; "
                f"use its words{known}, or allow unknown ones (--allow-unk)"
            )
        longest = max(map(len, rows))
        if longest > self.settings.max_length:
            raise UserError(
                f"caption: got {longest} words, need at most {self.settings.max_length} (max_length); shorten it"
            )
        ids = torch.full((len(rows), max(longest, 1)), NULL)
        lengths = torch.tensor([max(len(row), 1) for row in rows])  # the null token counts
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor([self._ids.get(word, UNKNOWN) for word in row], dtype=torch.int64)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return ids.to(self.word_table.device), mask.to(self.word_table.device)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Ids and mask, as `tokenize` gives them, to states (B, L, D); what masked places hold means nothing."""
        x_BLD = F.embedding(ids_BL, self.word_table) + self.place_table[: ids_BL.shape[1]]
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_BL[:, None, None])
        return self.norm(x_BLD)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions to states (B, L, D), with gradient, and mask bool (B, L); see `tokenize`."""
        ids_BL, mask_BL = self.tokenize(captions)
        return self(ids_BL, mask_BL), mask_BL

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; a folder with a config.json is complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / CONFIG) as config, replacing(folder / WEIGHTS) as weights:
            save_file(self.state_dict(), weights, metadata={"format": "pt"})
            config.write_text(json.dumps(asdict(self.settings), indent=1, ensure_ascii=False), encoding="utf-8")
            (folder / CONFIG).unlink(missing_ok=True)  # no old config beside new weights, should we stop in between

    @classmethod
    def load(cls, folder: str | Path, *, allow_unk: bool | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            folder: where.
            allow_unk: instead of the saved setting.
        Raises:
            UserError: a file that is missing or damaged, weights that do not fit the config.
        """
        folder = Path(folder)
        try:
            settings = from_json(_Settings, read_json(folder / CONFIG), where=str(folder / CONFIG))
        except UserError as error:
            raise UserError(f"{error}; copy the folder {folder.name} again from where the model was saved") from None
        path = folder / WEIGHTS
        if not path.is_file():
            raise UserError(f"file not found: {path}; copy it again from where the model was saved")
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from error
        options = asdict(settings) | ({} if allow_unk is None else {"allow_unk": allow_unk})
        # Before a model of any size is built.
        numbers = sum(tensor.numel() for tensor in tensors.values())
        if settings.layers > len(tensors) or settings.d * settings.max_length > numbers:
            raise UserError(f"{path}: {numbers} weights are too few for {CONFIG}; the file is damaged")
        with torch.device("meta"):
            model = cls(**options)
        expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
        given = {name: tensor.shape for name, tensor in tensors.items() if tensor.is_floating_point()}
        if wrong := sorted(name for name in expected | given if expected.get(name) != given.get(name)):
            raise UserError(f"{path}: tensors that do not fit {CONFIG}: {', '.join(wrong[:5])}; the file is damaged")
        model.load_state_dict(tensors, assign=True)
        return model

    @torch.no_grad()
    def _draw(self, generator: torch.Generator | None) -> None:
        """Matrices N(0, 0.02²), drawn where the generator is; nothing is drawn for the meta device."""
        if self.word_table.is_meta:
            return
        device = torch.device("cpu") if generator is None else generator.device
        for parameter in self.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, device=device) * INIT_STD)
        self.word_table[UNKNOWN] = 0


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, each normed before and added to its input; matrices without offsets."""

    def __init__(self, d: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv = nn.Parameter(torch.empty(3 * d, d))
        self.out = nn.Parameter(torch.empty(d, d))
        self.up = nn.Parameter(torch.empty(4 * d, d))
        self.down = nn.Parameter(torch.empty(d, 4 * d))

    def forward(self, x_BLD: Tensor, mask: Tensor) -> Tensor:
        """Args: mask bool (B, 1, 1, L), True where a token may be seen."""
        qkv = F.linear(self.attention_norm(x_BLD), self.qkv).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, L, D / heads) each
        y_BLD = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
        x_BLD = x_BLD + F.linear(y_BLD, self.out)
        return x_BLD + F.linear(F.gelu(F.linear(self.ffn_norm(x_BLD), self.up), approximate="tanh"), self.down)


class HFTextEncoder:
    """A frozen pretrained encoder of transformers: its last hidden states.

    Args:
        folder: with config, tokenizer and weights in safetensors; nothing is fetched, no code in it is run.
        kind: "t5" (its encoder), "clip" (its text half) or "bert".
        max_length: most tokens, special ones included; longer captions are cut.
        device: where it runs. Weights keep their stored type.
    Attributes:
        dim: width of the states.
    Raises:
        ValueError: an unknown kind, a max_length beyond the model's positions.
        UserError: a folder that does not hold a whole model of this kind.
    """

    def __init__(
        self,
        folder: str | Path,
        kind: Kind = "t5",
        max_length: int = 77,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind: got {kind!r}, need one of {', '.join(get_args(Kind))}")
        self._tokenizer, model = _pretrained(Path(folder), kind)
        positions = getattr(model.config, "max_position_embeddings", None) or max_length  # T5 has no end
        if not 1 <= max_length <= positions:
            raise ValueError(f"max_length: got {max_length}, need 1..{positions} (positions of the model)")
        self._model = model.requires_grad_(False).eval().to(device)
        self.max_length = max_length
        self.dim: int = model.config.hidden_size

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions to states (B, L, D) in float32 and mask bool (B, L), where L is the longest caption's."""
        _check_texts("captions", captions)
        batch = self._tokenizer(
            list(captions), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self._model.device)
        states = self._model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return states.float(), batch["attention_mask"].bool()


def _check_texts(name: str, texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not texts:
        raise ValueError(f"{name}: got {texts!r:.40}, need a sequence of at least one text")


def _pretrained(folder: Path, kind: str) -> tuple[Any, Any]:
    """Tokenizer and model."""
    import transformers  # here, since it takes seconds to import

    name, model_types = _KINDS[kind]
    if not (folder / CONFIG).is_file():
        raise UserError(f"text encoder not found: no {CONFIG} in {folder}; give the folder of a {kind} model")
    config = read_json(folder / CONFIG)
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in model_types:
        raise UserError(
            f"{folder}: {CONFIG} is of model_type {found!r:.40}, need {' or '.join(model_types)} for {kind!r}"
        )
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            extra = {"add_pooling_layer": False} if kind == "bert" else {}
            model, info = getattr(transformers, name).from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **options, **extra
            )
    except Exception as error:  # two other libraries parse here: damage shows in any way
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{folder}: not read as a {kind} model in safetensors ({reason}); fetch it again") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{folder}: {len(missing)} tensors missing: {', '.join(missing[:5])}; fetch it again")
    return tokenizer, model


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no table of the tensors that an encoder leaves out."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
