"""Which model a folder means: a run's first, a model's own, or one in LLaVA's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.recipes.mm1.training import Job
from tenfold.vision.llava_format import load_llava
from tenfold.vision.multimodal import MultimodalLM
from tenfold.vision.multimodal_folder import KIND, open_model


def find_model(path: Path) -> MultimodalLM:
    """The model of a folder, or the first model of a run folder.

    Raises:
        UserError: no such folder, or no model in it.
    """
    if not path.is_dir():
        raise UserError(f"no such model: {path}; need a run folder, a model folder, or a LLaVA folder")
    if (path / "run.json").is_file():
        Run.open(path).need_recipe("mm1")
    folder = path
    if not (path / "lm").is_dir() and (path / "models").is_dir():
        found = sorted(file.parent for file in path.glob("models/*/config.json"))
        if not found:
            raise UserError(f"no model in {path}: its training has not ended; tenfold mm1 train --resume {path}")
        folder = _own(path, found)
    kind = read_object(folder / "config.json").get("model_type")
    if kind == KIND:
        return open_model(folder).to(device_type())
    if kind == "llava":
        return load_llava(folder).to(device_type())
    raise UserError(f"{folder}: model_type: got {kind!r:.40}, need {KIND} or llava")


def _own(run: Path, found: Sequence[Path]) -> Path:
    """Of a run's models the first cell's and seed's."""
    config = read_object(run / "config.json")
    try:
        own = run / "models" / Job(config["cells"][0], config["seeds"][0]).name
    except (KeyError, IndexError, TypeError, AttributeError):
        return found[0]
    return own if own in found else found[0]
