"""What opens folders: models, adapters, tokenizers, stores, runs, checkpoints."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import torch
from parsers import Parser, folder
from torch import nn

from tenfold.align.reward_model import RewardModel
from tenfold.clinical.events import EventSpec
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.clinical.task_selection import AutoSelect
from tenfold.compress.compressed_folder import load_palettized, save_palettized
from tenfold.compress.palettize import PaletteConfig, palettize
from tenfold.core import checkpoint, report
from tenfold.core.claims import Claim
from tenfold.core.fit import TrainState
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.core.stream import ArrayStream
from tenfold.diffusion.autoencoder import PatchAutoencoder, PatchAutoencoderConfig
from tenfold.diffusion.codec import open_codec
from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.transformer import ECDiT
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import MinervaPolicy
from tenfold.graph.reasoner import Reasoner
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.gguf import read_gguf, read_gguf_tokenizer
from tenfold.lm.gguf_write import write_gguf
from tenfold.nn import lora
from tenfold.prompts.result import Result
from tenfold.recipes.meta_forecast.folder import read_weights
from tenfold.text.encoders import WordEncoder
from tenfold.text.messages import Reply, Usage
from tenfold.text.reply_store import ReplyStore
from tenfold.text.tokenizer import Tokenizer, train_tokenizer
from tenfold.vision.connectors import build_connector
from tenfold.vision.document_tokens import with_image_token
from tenfold.vision.image_processor import ImageProcessor
from tenfold.vision.multimodal import MultimodalLM
from tenfold.vision.multimodal_folder import open_model, save_model
from tenfold.vision.vit import ViT, ViTConfig

WORDS = "red blue green circle square a photo of the and small large"
LLAMA = DecoderConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=8, ffn_dim=24, max_len=32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decoder(**fields: Any) -> Decoder:
    return Decoder(DecoderConfig(**(vars(LLAMA) | fields)), seeded()).eval()


def tokenizer() -> Tokenizer:
    return train_tokenizer([WORDS] * 3, 280)


def adapter(root: Path) -> None:
    lora.save(lora.add_lora(decoder(), 2), root)


def gguf(root: Path) -> None:
    write_gguf(decoder(vocab_size=300, dim=32, head_dim=16), tokenizer(), root / "m.gguf")


def many_worded(root: Path) -> None:
    words = with_image_token(tokenizer())
    lm = Decoder(DecoderConfig(words.vocab_size - 1, 8, 1, 1, 1, 8, 8, max_len=64), seeded())
    vision = ViT(ViTConfig(image_size=16, dim=16, heads=2, mlp=16), seeded())
    connector = build_connector("cabs", 16, 8, 4, 2, generator=seeded(), depth=1, hidden=8)
    save_model(MultimodalLM(vision, connector, lm, tokenizer=words, processor=ImageProcessor(16, tokens=4)), root)


def forecaster(root: Path) -> None:
    from tenfold.clinical.task_selection import SelectConfig

    draw = seeded()
    columns = {name: torch.randn(24, 3, 2, generator=draw) for name in ("x", "y")}
    masks = {name: torch.ones(24, 3, 2, dtype=torch.bool) for name in ("mask", "y_mask")}
    label = {"label": (torch.arange(24) % 2).float()}
    config = SelectConfig(rounds=1, inner_steps=1, head_steps=1, lookahead=1, batch_size=8, state_size=2, classifier_steps=2)  # fmt: skip
    estimator = AutoSelect(config, names=("a", "b"))
    estimator.fit(columns | masks, columns | masks | label, columns | masks | label).save(root)


def walker(root: Path) -> None:
    kg = KnowledgeGraph.from_triples([("a", "likes", "b"), ("b", "knows", "c")])
    Reasoner(MinervaPolicy(kg, dim=3, hidden=5), kg, horizon=2).save(root)


def run_folder(root: Path) -> None:
    run = Run.create("spag", "tiny", {"model": {"dim": 3}}, root)
    run.log(1, loss=1.5)
    run.log(2, loss=math.nan)
    run.text("about", "Some words.")
    run.table("rows", [{"a": 1, "b": 2.5}])
    run.save_stage("first", {"steps": 3})
    run.claim(Claim("lower", 1.0, 2.0, "lower", (-2.0, -0.5), 3, "how"))
    run.finish()
    shutil.move(run.path, root / "run")
    shutil.rmtree(root / "spag")


def read_run(root: Path) -> Any:
    run = Run.open(root / "run")
    return run.rows(), run.load_stage("first"), report.read_section(run.path)


def fresh() -> TrainState:
    model = nn.Linear(2, 1)
    return TrainState(model, adamw(model, 1e-2), Schedule(2, 9), ArrayStream(torch.arange(7), 2, seed=0), seed=3)


def saved_checkpoint(root: Path) -> None:
    class Folder:
        path = root

    checkpoint.save(Folder(), fresh())  # type: ignore[arg-type]


def read_checkpoint(root: Path) -> Any:
    (path,) = sorted((root / "checkpoints" / "main").iterdir())
    checkpoint.restore(fresh(), path)


def replies(root: Path) -> None:
    store = ReplyStore(root / "r.db")
    store.put(b"key", [Reply("a", "stop", Usage(1, 1))])
    store.add_model("id", "name")
    with contextlib.closing(sqlite3.connect(root / "r.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for beside in ("r.db-wal", "r.db-shm"):
        (root / beside).unlink(missing_ok=True)


def read_replies(root: Path) -> Any:
    # A copy of each: a database that is open is mapped, and to cut its file under it would end the process.
    with tempfile.TemporaryDirectory(dir=root) as fresh:
        store = ReplyStore(shutil.copy(root / "r.db", fresh), read_only=True)
        return store.get(b"key", 1), store.models()


CANDIDATE = {"id": 0, "text": "Think.", "op": "start", "step": 0, "parent": None, "reflection": None, "extra": {}, "scores": {}, "dropped": None}  # fmt: skip
SEARCH = {
    "method": "abo", "task": "t", "seed": 0, "test": {}, "cost": {}, "diagnostics": {}, "ended": "steps", "about": {}, "best": 0,
    "baseline": 0, "curve": [], "candidates": [CANDIDATE],
}  # fmt: skip
STATE_SPACE = (EventSpec("a", 1.0, 5), EventSpec("b", 2.0, 3, weight=0.5))
PICTURES = ECDiTConfig(image_size=8, patch_size=2, dim=16, num_layers=2, num_heads=2, text_dim=12, num_experts=4, moe_layers=(1,))  # fmt: skip

PARSERS: list[Parser] = [
    folder("a decoder", lambda root: decoder().save_pretrained(root), Decoder.from_pretrained),
    folder("a reward model", lambda root: RewardModel(decoder(), seeded()).save_pretrained(root), RewardModel.from_pretrained),
    folder("a palettized decoder", lambda root: save_palettized(palettize(decoder(), PaletteConfig()), root), load_palettized),
    folder("an adapter", adapter, lambda root: lora.load(decoder(), root)),
    folder("a tokenizer", lambda root: tokenizer().save(root), Tokenizer.load),
    folder("an encoder of words", lambda root: WordEncoder([WORDS], 8, generator=seeded()).save(root), WordEncoder.load),
    folder("a multimodal model", many_worded, open_model, slow=True),
    folder("a diffusion transformer", lambda root: ECDiT(PICTURES, generator=seeded()).save_pretrained(root), ECDiT.from_pretrained),
    folder("an autoencoder", lambda root: PatchAutoencoder(PatchAutoencoderConfig(width=32, blocks=1)).save_pretrained(root), open_codec),
    folder("a state-space model", lambda root: DeepStateSpace(3, 1, STATE_SPACE, generator=seeded()).save_pretrained(root), DeepStateSpace.from_pretrained),
    folder("a forecaster", forecaster, AutoSelect.load),
    folder("weights of a forecaster", forecaster, read_weights),
    folder("a reasoner", walker, Reasoner.load),
    folder("a run", run_folder, read_run),
    folder("a checkpoint", saved_checkpoint, read_checkpoint),
    folder("stored replies", replies, read_replies),
    folder("a search's result", {"result.json": json.dumps(SEARCH)}, Result.open),
]  # fmt: skip
if importlib.util.find_spec("gguf") is not None:
    PARSERS += [
        folder("a GGUF file", gguf, lambda root: read_gguf(root / "m.gguf")),
        folder("a GGUF file's tokenizer", gguf, lambda root: read_gguf_tokenizer(root / "m.gguf"), slow=True),
    ]
