"""A language model of the word world, trained from nothing in two minutes and kept: a small real target for prompt searches.

It is a decoder of ours, of 0.15 million weights, behind the same engine as every local model. It follows the instructions that
it was taught, in the form that a demonstration shows; nothing but training put them there.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from tenfold.core.atomic import write_atomic
from tenfold.core.config import need, to_json
from tenfold.core.data import cache_dir
from tenfold.core.progress import TrainingProgress
from tenfold.prompts.word_world import KINDS, lessons, taught, word_task
from tenfold.text.messages import Message

if TYPE_CHECKING:
    from tenfold.lm.chat import LocalChatModel
    from tenfold.lm.decoder import Decoder
    from tenfold.text.tokenizer import Tokenizer

WORDINGS = len(KINDS["animal"])  # of each meaning
CONTEXT = 512  # tokens that the model reads
VOCABULARY = 1024  # tokens at most


@dataclass(frozen=True)
class WordModel:
    """How a model of the word world is made.

    Args:
        seed: of its first weights, its lessons and the wordings that it is taught.
        wordings: of the four of each meaning, so many are taught.
        dim, layers, heads: of the decoder.
        lessons: different ones.
        shown: share of lessons with steps and a demonstration.
        steps: of training.
        rows, length: of a batch; short lessons share a row.
        lr: peak rate of AdamW.
    """

    seed: int = 0
    wordings: int = 1
    dim: int = 64
    layers: int = 2
    heads: int = 4
    lessons: int = 8000
    shown: float = 0.25
    steps: int = 500
    rows: int = 8
    length: int = 160
    lr: float = 8e-3

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "heads", "lessons", "steps", "rows"):
            need(name, getattr(self, name), 1)
        need("seed", self.seed, 0)
        need("wordings", self.wordings, 1, WORDINGS)
        need("shown", self.shown, 0, 1)
        need("length", self.length, 160)
        need("lr", self.lr, 0, above=True)
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim: got {self.dim}, need a multiple of twice heads = {self.heads}")

    @property
    def taught(self) -> frozenset[str]:
        """The wordings that it is taught; a search never sees them."""
        return taught(self.seed, self.wordings)

    @property
    def key(self) -> str:
        """A hash of these settings and of what is taught: where a trained model is kept."""
        words = [to_json(self), list(lessons(self.seed, min(self.lessons, 500), self.taught, self.shown))]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


WORD_MODEL = WordModel()


def open_word_model(settings: WordModel = WORD_MODEL, **engine: object) -> LocalChatModel:
    """The model as a chat model; trained first where the cache does not hold it.

    It computes in float64, so that its replies do not depend on what else it is asked at the time.

    Args:
        settings: how it is made.
        engine: options of `LocalChatModel`.
    Raises:
        UserError: a kept model that is damaged; the line names the file.
    """
    import torch

    from tenfold.lm.chat import LocalChatModel
    from tenfold.lm.decoder import Decoder
    from tenfold.text.tokenizer import Tokenizer

    folder = train_word_model(settings)
    model = Decoder.from_pretrained(folder, dtype=torch.float64)
    options = {"compiled": "off", "max_waiting": 8192, **engine}
    return LocalChatModel(model, Tokenizer.load(folder), folder.name, **options)


def train_word_model(settings: WordModel) -> Path:
    """The folder of the trained model below TENFOLD_CACHE, in Hugging Face's layout; two callers at once train once."""
    folder = cache_dir() / "word-models" / f"word-model-{settings.key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "config.json").is_file():  # written last
            model, tokenizer = _trained(settings)
            tokenizer.save(folder)
            write_atomic(folder / "made.json", json.dumps(to_json(settings), indent=1) + "\n")
            model.save_pretrained(folder)
    return folder


def _trained(settings: WordModel) -> tuple[Decoder, Tokenizer]:
    """A decoder from nothing, and its tokenizer."""
    import torch

    from tenfold.align.chat_samples import chat_sample
    from tenfold.align.sft import sft_batches, sft_loss
    from tenfold.core.fit import TrainState, train_step
    from tenfold.core.meter import Meter
    from tenfold.lm.decoder import Decoder, DecoderConfig
    from tenfold.lm.optim import OptimizerConfig
    from tenfold.text.tokenizer import train_tokenizer

    task = word_task()
    taught = lessons(settings.seed, settings.lessons, settings.taught, settings.shown)
    chats = [[*task.render(prompt, asked), Message("assistant", said)] for prompt, asked, said in taught]
    tokenizer = train_tokenizer([message.content for chat in chats[:2000] for message in chat], VOCABULARY)
    samples = [chat_sample(tokenizer, chat) for chat in chats]
    shape = DecoderConfig(tokenizer.vocab_size, settings.dim, settings.layers, settings.heads, settings.heads, settings.dim // settings.heads, 3 * settings.dim, rope_base=1e4, max_len=CONTEXT)  # fmt: skip
    model = Decoder(shape, torch.Generator().manual_seed(settings.seed))
    adamw = OptimizerConfig("adamw", settings.lr, 1e-4, warmup=min(30, settings.steps), mup=None)
    stream = sft_batches(samples, settings.length, settings.rows, seed=settings.seed)
    state = TrainState(model.train(), adamw.build(model), adamw.schedule(settings.steps), stream, seed=settings.seed)
    batches, meter = iter(stream), Meter()
    with TrainingProgress("word model", shown=True) as bar:
        while state.step < settings.steps:
            start = time.perf_counter()
            metrics = train_step(state, sft_loss, [next(batches)], clip_norm=1.0)
            meter.add(metrics["weight"], time.perf_counter() - start)
            bar.update(state.step / settings.steps, state.step, metrics["loss"], meter.rate)
    return model.eval(), tokenizer
