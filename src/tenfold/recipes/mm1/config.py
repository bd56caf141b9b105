"""Settings of an MM1 experiment, and the cells that vary it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tenfold.core.config import did_you_mean, need, need_distinct, need_seeds
from tenfold.vision.connectors import CONNECTORS

CaptionSource = Literal["scenes", "emoji", "stamps", "clipart", "files"]
Rule = Literal["attr", "vqa", "lang", "group", "bind"]
Task = Literal["scenes", "reading", "several", "easy_vqa"]
AXES = ("mix", "connector", "resolution", "tokens", "encoder", "decoder", "task", "tiles")
MAIN = "mix=45/45/10"


@dataclass(frozen=True)
class Vision:
    """The picture encoder.

    Args:
        size: pixels a side.
        patch: pixels a side of a patch; divides size.
        dim, layers, heads, mlp: of the transformer.
        start: random weights, or those of the contrastive ("clip") or the reconstructive ("aim") stage.
        zero: what is 0 once pixels are normalised: the mean of photographs, as in CLIP ("photos"), or "white", with black at -2:
            then empty paper adds nothing to a patch. For an encoder that starts from random weights.
        tiles: 4 cuts pictures into 4 tiles beside the whole one in tuning and after; 0: no tiles.
        layer: whose features the connector reads; -1 is the last.
        frozen: the encoder does not learn with the language model, and each picture is encoded once.
    """

    size: int = 24
    patch: int = 8
    dim: int = 64
    layers: int = 2
    heads: int = 4
    mlp: int = 128
    start: Literal["random", "clip", "aim"] = "random"
    zero: Literal["photos", "white"] = "photos"
    tiles: int = 0
    layer: int = -1
    frozen: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "patch", "dim", "layers", "heads", "mlp"):
            need(name, getattr(self, name), 1)
        if self.size % self.patch:
            raise ValueError(f"size: got {self.size}, need a multiple of patch = {self.patch}")
        if self.dim % self.heads:
            raise ValueError(f"heads: got {self.heads}, need a divisor of dim = {self.dim}")
        if self.tiles not in (0, 4, 9):
            raise ValueError(f"tiles: got {self.tiles}, need 0, 4 or 9")


@dataclass(frozen=True)
class Connector:
    """From patches to tokens.

    Args:
        name: avg, attn, cabs, mlp or pixel_shuffle.
        tokens: k, a square number; with mlp the number of patches.
        hidden, depth: of the C-Abstractor.
    """

    name: str = "cabs"
    tokens: int = 9
    hidden: int = 64
    depth: int = 1

    def __post_init__(self) -> None:
        if self.name not in CONNECTORS:
            raise ValueError(f"name: got {self.name!r}{did_you_mean(self.name, list(CONNECTORS))}, need one of {', '.join(CONNECTORS)}")  # fmt: skip
        for name in ("tokens", "hidden"):
            need(name, getattr(self, name), 1)
        need("depth", self.depth, 0)


@dataclass(frozen=True)
class Language:
    """The decoder.

    Args:
        base: a pretrained model by its name (tenfold models list) or folder; none: a small one of the shape below.
        frozen: a pretrained one does not learn.
        vocab: token ids at most, of the tokenizer that is trained along with a small one.
        dim, layers, heads, ffn: of the small one.
        max_len: tokens it reads.
        experts: of every second layer, top-2, each as wide as half of ffn; 0: dense.
        capacity: most tokens of a step that an expert takes, as a factor: int(capacity · tokens / experts), rounded up to a multiple
            of 4, second choices after first ones; those left over pass by (AXLearn, with 2). 0: every token gets its experts.
    """

    base: str | None = None
    frozen: bool = False
    vocab: int = 640
    dim: int = 96
    layers: int = 3
    heads: int = 4
    ffn: int = 256
    max_len: int = 512
    experts: int = 0
    capacity: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "heads", "ffn", "max_len"):
            need(name, getattr(self, name), 1)
        need("vocab", self.vocab, 280)
        need("experts", self.experts, 0)
        need("capacity", self.capacity, 0)
        if self.dim % (2 * self.heads):
            raise ValueError(f"heads: got {self.heads}, need a divisor of dim / 2 = {self.dim / 2:g}")
        if self.experts == 1 or (self.base and self.experts):
            raise ValueError(f"experts: got {self.experts}, need 0, or 2 or more of a small decoder")
        if self.frozen and self.base is None:
            raise ValueError("frozen: got True without base, need a pretrained decoder")


@dataclass(frozen=True)
class Data:
    """What is read.

    Args:
        captions: sources of pictures with captions; "scenes" are drawn for the purpose, "files" are your own.
        path: of "files": a folder of pictures with captions of the same name (.txt), or WebDataset shards.
        interleaved: rules of the interleaved documents; lang, group and bind need the emoji.
        text: text-only documents: "glosses" of WordNet, or "lexicon", which comes along.
        per_epoch: generated documents of each kind in an epoch.
        folder: of the prepared files; none: TENFOLD_DATA or the cache.
        synthetic: share of the captions that are sentences from a template.
    """

    captions: tuple[CaptionSource, ...] = ("scenes",)
    path: Path | None = None
    interleaved: tuple[Rule, ...] = ("attr", "vqa")
    text: Literal["lexicon", "glosses"] = "lexicon"
    per_epoch: int = 20_000
    folder: Path | None = None
    synthetic: float = 0.07

    def __post_init__(self) -> None:
        for name in ("captions", "interleaved"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}: got {values}, need one or more, all different")
        if ("files" in self.captions) != (self.path is not None):
            raise ValueError(
                "path: needed with captions files, and only there, say --data.captions files --data.path MY"
            )
        need("per_epoch", self.per_epoch, 1)
        need("synthetic", self.synthetic, 0, 1)


@dataclass(frozen=True)
class Clip:
    """The encoder's own stage on emoji: contrastive, with their names and keywords; where a cell starts from "aim", also
    reconstructive, on the drawings alone, with the same steps, batch, rate and sizes.

    Args:
        steps: 0: no such stage.
        batch: pairs a step.
        lr: peak learning rate.
        size, patch: pixels of the pictures and of their patches.
        loss: CLIP's or SigLIP's.
        dedup: equal captions are no negatives of each other.
    """

    steps: int = 0
    batch: int = 128
    lr: float = 1e-3
    size: int = 32
    patch: int = 8
    loss: Literal["clip", "siglip"] = "clip"
    dedup: bool = True

    def __post_init__(self) -> None:
        need("steps", self.steps, 0)
        need("batch", self.batch, 2)
        need("lr", self.lr, 0, above=True)
        if self.size % self.patch:
            raise ValueError(f"size: got {self.size}, need a multiple of patch = {self.patch}")


@dataclass(frozen=True)
class Training:
    """Pre-training or tuning.

    Args:
        steps: 0: no such stage.
        rows: packed rows a step, over all processes.
        length: T, tokens of a row.
        images: most pictures of a row.
        lr: peak learning rate; warm-up, then a cosine down to `final` of it.
        warmup: steps.
        final: last over peak rate.
        weight_decay: λ over η. With wd "absolute" a step takes λ · w off (the paper, as we read it), with "adamw" η · λ · w.
        wd: see weight_decay.
        optimizer: adamw (β 0.9, 0.95), or adafactor.
        cross_doc: attention runs through a row's documents.
        buffer: rows open at once while packing.
    """

    steps: int = 200
    rows: int = 16
    length: int = 128
    images: int = 16
    lr: float = 3e-3
    warmup: int = 20
    final: float = 0.1
    weight_decay: float = 0.1
    wd: Literal["absolute", "adamw"] = "absolute"
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    cross_doc: bool = False
    buffer: int = 64

    def __post_init__(self) -> None:
        need("steps", self.steps, 0)
        for name in ("rows", "images", "buffer"):
            need(name, getattr(self, name), 1)
        need("length", self.length, 8)
        need("lr", self.lr, 0, above=True)
        need("warmup", self.warmup, 0)
        need("final", self.final, 0, 1)
        need("weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class Tuning:
    """What is tuned on, and for how long.

    Args:
        tasks: questions about "scenes", a sign to read ("reading": one to three letters, when scored three), questions over
            "several" pictures, "easy_vqa".
        worked: share of the questions over several pictures whose answers come after their steps.
        demos: most demonstrations before such a question, answered in its way: without them a model that was tuned on single
            questions no longer takes up the way that demonstrations answer in.
        turns: most questions of "scenes" and "easy_vqa" about one picture in a document, as in a conversation.
        training: steps and rates; the paper tunes with a cosine to 0.
    """

    tasks: tuple[Task, ...] = ("scenes",)
    worked: float = 0.0
    demos: int = 0
    turns: int = 1
    training: Training = Training(steps=0, final=0.0)

    def __post_init__(self) -> None:
        need("worked", self.worked, 0, 1)
        need("demos", self.demos, 0)
        need("turns", self.turns, 1)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: got {self.tasks}, need one or more, all different")


@dataclass(frozen=True)
class Evaluation:
    """What is asked after training.

    Args:
        shots: numbers of demonstrations.
        queries: of every task and number of shots.
        tuned: questions of every tuning task.
        glosses: held-out lines of text.
    """

    shots: tuple[int, ...] = (0, 4, 8)
    queries: int = 100
    tuned: int = 200
    glosses: int = 200

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 0 or len(set(self.shots)) < len(self.shots):
            raise ValueError(f"shots: got {self.shots}, need different numbers from 0 on")
        for name in ("queries", "tuned", "glosses"):
            need(name, getattr(self, name), 2)


@dataclass(frozen=True)
class Config:
    """Pre-training of a language model on captions, interleaved documents and text, tuning, few-shot evaluation.

    Args:
        cells: what is trained, each for every seed: settings "axis=value", joined by "+". mix=45/45/10 (captions, interleaved,
            text), mix=control (the rule is drawn anew for each picture); connector=avg; resolution=48; tokens=9; encoder=clip,
            encoder=aim or encoder=4 (layers); decoder=moe; tiles=4; task=reading (tuned from random weights on that task alone).
        seeds: of weights, order and queries.
        workers: trainings side by side, each on one thread.
        precision: "bf16" runs forward and backward in bfloat16.
        log_every, save_every: steps between log rows, between checkpoints.
    """

    vision: Vision = Vision()
    connector: Connector = Connector()
    language: Language = Language()
    data: Data = Data()
    clip: Clip = Clip()
    pretrain: Training = Training()
    sft: Tuning = Tuning()
    evaluation: Evaluation = Evaluation()
    cells: tuple[str, ...] = (MAIN,)
    seeds: tuple[int, ...] = (0,)
    workers: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 5
    save_every: int = 100

    def __post_init__(self) -> None:
        need_distinct("cells", self.cells)
        need_seeds(self.seeds)
        for name in ("workers", "log_every", "save_every"):
            need(name, getattr(self, name), 1)
        for cell in self.cells:
            settings(cell)
        image_tokens = self.connector.tokens * (1 + self.vision.tiles)
        if image_tokens + 1 > min(self.pretrain.length, self.sft.training.length):
            raise ValueError(f"length: got rows shorter than one picture ({image_tokens} tokens), need longer rows")


@dataclass(frozen=True)
class Mix:
    """Shares of captions, interleaved documents and text, and whether the interleaved ones have a lasting rule."""

    captions: float
    interleaved: float
    text: float
    control: bool = False

    @classmethod
    def parse(cls, value: str) -> Mix:
        """ "45/45/10", or "control" for that with rules drawn anew for each picture."""
        if value == "control":
            return cls(45, 45, 10, control=True)
        try:
            shares = [float(part) for part in value.split("/")]
        except ValueError:
            shares = []
        if len(shares) != 3 or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
            raise ValueError(f"mix: got {value!r}, need captions/interleaved/text such as 45/45/10, or control")
        return cls(shares[0], shares[1], shares[2])


def settings(cell: str) -> dict[str, str]:
    """The settings of a cell's name.

    Raises:
        ValueError: an unknown axis, a value that an axis does not take.
    """
    found: dict[str, str] = {}
    for part in cell.split("+"):
        axis, _, value = part.partition("=")
        if axis not in AXES or not value or axis in found:
            raise ValueError(
                f"cells: got {part!r} in {cell!r}, need axis=value with an axis of {', '.join(AXES)}, once each"
            )
        found[axis] = value
    if "mix" in found:
        Mix.parse(found["mix"])
    if found.get("decoder", "moe") not in ("moe", "dense"):
        raise ValueError(f"cells: decoder: got {found['decoder']!r}, need moe or dense")
    for axis in ("resolution", "tokens", "tiles"):
        if axis in found and not found[axis].isdigit():
            raise ValueError(f"cells: {axis}: got {found[axis]!r}, need a whole number")
    return found


def of_cell(config: Config, cell: str) -> tuple[Config, Mix]:
    """The config that a cell stands for, and its mix of sources."""
    given = settings(cell)
    vision, connector, language = config.vision, config.connector, config.language
    if "resolution" in given:
        vision = replace(vision, size=int(given["resolution"]))
    if "tiles" in given:
        vision = replace(vision, tiles=int(given["tiles"]))
    if encoder := given.get("encoder"):
        if encoder.isdigit():
            vision = replace(vision, layers=int(encoder))
        elif encoder in ("clip", "aim", "random"):
            vision = replace(vision, start=encoder)  # type: ignore[arg-type]
        else:
            raise ValueError(f"cells: encoder: got {encoder!r}, need clip, aim, random or a number of layers")
    if "connector" in given:
        connector = replace(connector, name=given["connector"])
    if "tokens" in given:
        connector = replace(connector, tokens=int(given["tokens"]))
    if "decoder" in given:
        language = replace(language, experts=4 if given["decoder"] == "moe" else 0)
    pretrain, sft = config.pretrain, config.sft
    if task := given.get("task"):
        pretrain, sft = replace(pretrain, steps=0), replace(sft, tasks=tuple(task.split(",")))  # type: ignore[arg-type]
    changed = replace(
        config, vision=vision, connector=connector, language=language, pretrain=pretrain, sft=sft, cells=(cell,)
    )
    return changed, Mix.parse(given.get("mix", "45/45/10"))
