"""What a model is trained on: captions, interleaved documents, text; the mixture of them as a stream of packed rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.core.stream import ArrayStream, Batcher, Mixture
from tenfold.games.files import load_lexicon
from tenfold.recipes.mm1.config import Config, Data, Mix, Training
from tenfold.text.tokenizer import Tokenizer, train_tokenizer
from tenfold.vision.document_readers import read_captions, read_texts
from tenfold.vision.document_tokens import special_ids, with_image_token
from tenfold.vision.image_processor import ImageProcessor
from tenfold.vision.instructions import Instructions
from tenfold.vision.interleaved import CAPTION_PROMPT, CaptionDocuments, EmojiNames, InterleavedDocuments
from tenfold.vision.multimodal_packing import Collate, packed_stream
from tenfold.vision.picture_refs import span_ref
from tenfold.vision.webdataset import read_about, read_shard

Segments = list[dict[str, Any]]
HELD_OUT_EVERY = 7  # of the lexicon's lines one in so many is only scored


def data_file(settings: Data, name: str) -> Path:
    """A prepared file.

    Raises:
        UserError: absent.
    """
    if settings.folder is None:
        return data.path(f"08-mm1/{name}")
    path = settings.folder / name
    if not path.is_file():
        raise UserError(f"data not found: {path} (pass --data.folder)")
    return path


def emoji_of(settings: Data, part: str = "train") -> EmojiNames:
    """The emoji, with their drawings and names."""
    return EmojiNames.read(data_file(settings, f"emoji-{part}.tar"))


def caption_pairs(settings: Data) -> list[Segments]:
    """Pictures with captions from files."""
    found: list[Segments] = []
    for source in settings.captions:
        if source == "emoji":
            found += [
                [{"image": image}, {"text": f"{CAPTION_PROMPT} {row['name']['en']}"}]
                for row in emoji_of(settings).rows
                for image in row["images"]
            ]
        elif source == "files" and settings.path is not None:
            found += read_captions(settings.path, CAPTION_PROMPT + " {caption}")
        elif source != "scenes":
            found += _shard_captions(data_file(settings, f"{source}-train.tar"))
    return found


def _shard_captions(path: Path) -> list[Segments]:
    """Titles or English captions of a shard of the prepared pictures."""
    found: list[Segments] = []
    for sample, kinds in read_shard(path).items():
        where = f"{path}: {sample!r:.80}"
        about = read_about(kinds, where)
        captions = about.get("caption")
        text = about.get("title") or (captions.get("en") if isinstance(captions, dict) else None)
        if not isinstance(text, str) or "webp" not in kinds:
            raise UserError(f"{where}: need a .webp, and a title or an English caption")
        found.append([{"image": span_ref(kinds["webp"])}, {"text": f"{CAPTION_PROMPT} {text}"}])
    return found


def texts(settings: Data, part: str) -> list[Segments]:
    """Text-only documents: part "train" or "val"."""
    if settings.text == "glosses":
        return read_texts(data_file(settings, f"glosses-{part}.txt.gz"))
    lexicon = load_lexicon(data.path("07-spag/lexicon.jsonl"))
    pairs = [f"{entry.word} goes with {clue}" for entry in lexicon for clue in entry.clues]
    held_out = pairs[::HELD_OUT_EVERY]
    kept = [pair for index, pair in enumerate(pairs) if index % HELD_OUT_EVERY]
    return [[{"text": pair}] for pair in (kept if part == "train" else held_out)]


def make_tokenizer(config: Config) -> Tokenizer:
    """A tokenizer over the words of all sources, with `<image>`."""
    seen = [segment["text"] for document in texts(config.data, "train")[:4000] for segment in document]
    captions = CaptionDocuments(0, 400, tuple(caption_pairs(config.data)), 0.5)
    rules = tuple(rule for rule in config.data.interleaved if rule in ("attr", "vqa"))
    documents: list[Segments] = [captions[i] for i in range(len(captions))]
    if rules:
        lines = InterleavedDocuments(rules, 0, 400)
        documents += [lines[i] for i in range(len(lines))]
    tasks = tuple(task for task in config.sft.tasks if task != "easy_vqa")
    if tasks:
        asked = Instructions(tasks, 0, 400, worked=config.sft.worked, demos=config.sft.demos)
        documents += [asked[i] for i in range(len(asked))]
    seen += [segment["text"] for document in documents for segment in document if "text" in segment]
    return with_image_token(train_tokenizer(seen, config.language.vocab - 1))


def mixture(config: Config, mix: Mix, seed: int) -> Mixture:
    """Captions, interleaved documents and text in exact shares; sources of share 0 are left out.

    Raises:
        UserError: a source with a share that is missing or empty.
    """
    settings = config.data
    needs_emoji = set(settings.interleaved) & {"lang", "group", "bind"}
    sources: list[Sequence[Segments]] = []
    weights = []
    if mix.captions:
        scenes = settings.per_epoch if "scenes" in settings.captions else 0
        sources.append(CaptionDocuments(seed, scenes, tuple(caption_pairs(settings)), settings.synthetic))
        weights.append(mix.captions)
    if mix.interleaved:
        emoji = emoji_of(settings) if needs_emoji else None
        sources.append(InterleavedDocuments(settings.interleaved, seed, settings.per_epoch, emoji, mix.control))
        weights.append(mix.interleaved)
    if mix.text:
        sources.append(texts(settings, "train"))
        weights.append(mix.text)
    if any(not len(source) for source in sources):
        raise UserError("data: a source of the mix is empty; give it documents, or share 0")
    return Mixture(sources, weights, seed)


class Signed:
    """A stream whose saved place is taken only by one of the same tokenizer, tokens a picture, and mix."""

    def __init__(self, stream: Batcher, signature: str) -> None:
        self.stream, self.signature = stream, signature

    def __iter__(self) -> Iterator[Any]:
        return iter(self.stream)

    def state_dict(self) -> dict[str, Any]:
        return {"signature": self.signature, "stream": self.stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("signature") != self.signature:
            raise UserError(
                f"resume: the checkpoint was made with another tokenizer, number of tokens or mix "
                f"({state.get('signature')!r:.80}, now {self.signature!r:.80}); start a new run"
            )
        self.stream.load_state_dict(state["stream"])


def batches(
    training: Training,
    documents: Mixture | Sequence[Segments],
    tokenizer: Tokenizer,
    processor: ImageProcessor,
    seed: int,
    label: str,
    *,
    collate: Any = None,
    rank: int = 0,
    world: int = 1,
) -> Signed:
    """A resumable stream of batches of packed rows."""
    stream = documents if isinstance(documents, Mixture) else ArrayStream(documents, seed=seed)
    rows = packed_stream(
        stream,
        tokenizer,
        processor,
        training.length,
        training.images,
        training.buffer,
        cross_doc=training.cross_doc,
    )
    collate = collate or Collate(special_ids(tokenizer), processor)
    signature = f"{label}, {tokenizer.vocab_size} ids, {processor.tokens} tokens a crop, rows of {training.length}"
    return Signed(Batcher(rows, training.rows, collate=collate, rank=rank, world=world), signature)
