"""Checkpoints: safetensors and JSON, sealed by checksums, whole or absent, never a pickle.

<run>/checkpoints/<name>/step-00000123/
    model/       weights under their names: model.safetensors, or one shard a rank
    training/    optimizer moments, averaged weights
    rank-00000/  this rank's position in the data
    state.json   everything that is no tensor
    manifest.json  bytes and SHA-256 of every file; written last
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.tensor import DTensor

from tenfold.core.atomic import checked_name, file_sha256, sync
from tenfold.core.errors import UserError, is_disk_full
from tenfold.core.mesh import is_main
from tenfold.core.tree import flatten, unflatten

if TYPE_CHECKING:
    from tenfold.core.fit import TrainState

FORMAT = 2  # 1 did not name the optimizer's class
_NAME = re.compile(r"step-(\d{8,})")
_WRITE_ERRORS = (OSError, SafetensorError, CheckpointException)


class RunFolder(Protocol):
    """What has a folder for checkpoints."""

    @property
    def path(self) -> Path: ...


class RewindableRun(RunFolder, Protocol):
    """A run whose logs go back to a step with the weights."""

    def rewind(self, step: int, name: str | None = None) -> None: ...


class TornCheckpointError(UserError):
    """A checkpoint whose files are missing or are not those that were written."""


def save(run: RunFolder, state: TrainState, name: str = "main", *, keep: int = 2) -> Path:
    """Write a checkpoint of `state`, then remove all but the newest `keep` of this name.

    The folder appears whole or not at all. Checkpoints of later steps go too: they belong to an attempt that was
    taken back. Call it on every rank of a process group.

    Raises:
        UserError: the disk is full; earlier checkpoints stay as they are.
    """
    if keep < 1:
        raise ValueError(f"keep: got {keep}, need at least 1")
    folder = run.path / "checkpoints" / checked_name(name)
    final = folder / f"step-{state.step:08d}"
    temporary = _aside(final, "tmp")
    tree = state.state_dict()

    def prepare() -> None:
        _recover(folder)
        for stale in folder.glob(".step-*"):
            shutil.rmtree(stale)
        temporary.mkdir(parents=True)

    def seal() -> None:
        _seal(temporary, state.step)
        _replace(temporary, final)

    try:
        _together(prepare, main_only=True)
        _together(lambda: _write(temporary, tree))
        _together(seal, main_only=True)
    except _WRITE_ERRORS as error:
        if is_main():
            shutil.rmtree(temporary, ignore_errors=True)
        if _no_room(error):
            raise UserError(f"disk full while writing {final}: free some space, then resume {run.path}") from error
        raise
    if is_main():
        steps = sorted(_steps(folder))
        for step in [s for s in steps if s > state.step] + [s for s in steps if s <= state.step][:-keep]:
            shutil.rmtree(_steps(folder)[step])
    return final


def latest(run: RunFolder, name: str = "main") -> Path | None:
    """The newest checkpoint whose checksums hold; None if there is none. A torn one is passed over with a warning.

    Raises:
        UserError: one that another version wrote: passing over it would train its steps again.
    """
    folder = run.path / "checkpoints" / checked_name(name)
    step = torch.tensor(-1)

    def look() -> None:
        _recover(folder)
        found = _steps(folder)
        for candidate in sorted(found, reverse=True):
            try:
                verify(found[candidate])
            except TornCheckpointError as error:
                warnings.warn(f"{error}; going back to the one before it", RuntimeWarning, stacklevel=4)
            else:
                step.fill_(candidate)
                break

    _together(look, main_only=True)
    if _world() > 1:
        dist.broadcast(step, src=0)
    return None if step < 0 else folder / f"step-{int(step):08d}"


def verify(path: Path) -> None:
    """Check that a checkpoint has all its files, each as the manifest says.

    Raises:
        TornCheckpointError: naming the first file that is missing or different.
        UserError: a version with another format wrote it.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise UserError(f"checkpoint {path}: format: got {manifest['format']!r}, need {FORMAT}")
        streams = (f"{_rank_folder(rank)}/stream.json" for rank in range(manifest["world"]))
        if any(Path(file).is_absolute() or ".." in Path(file).parts for file in manifest["files"]):
            raise ValueError("files")  # nothing outside is read, which might have no end
        for file in itertools.chain(["state.json"], streams, manifest["files"]):
            if file_sha256(path / file) != manifest["files"][file]["sha256"]:
                raise TornCheckpointError(f"checkpoint {path} is torn: {file} does not match its checksum")
    except UserError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise TornCheckpointError(f"checkpoint {path} is torn: {type(error).__name__} while reading it") from error


def restore(state: TrainState, path: Path) -> None:
    """Load a checkpoint into `state`, whatever number of processes saved it and whatever number loads it.

    Raises:
        UserError: the checkpoint is torn, or does not fit the model, the optimizer or the stream.
    """
    _together(lambda: verify(path), main_only=True)
    parameters = dict(state.model.named_parameters())
    with _fitting(path):
        plain = json.loads((path / "state.json").read_text())
        tree = {
            **unflatten(plain["training"], _read(path / "training", parameters)),
            "model": unflatten(plain["model"], _read(path / "model", dict(state.model.state_dict()))),
            "stream": _read_stream(path, plain["world"]),
        }
        state.load_state_dict(tree)


def resume(run: RewindableRun, state: TrainState, name: str = "main") -> bool:
    """Go on from the latest checkpoint, if there is one, and drop the log rows of the steps after it.

    Returns:
        Whether there was one.
    """
    path = latest(run, name)
    if path is not None:
        restore(state, path)
    if is_main():
        run.rewind(state.step, name=name)
    return path is not None


def load_weights(model: nn.Module, path: Path, *, averaged: bool = False) -> None:
    """Load only the weights of a checkpoint; `averaged` takes the moving average of those that have one.

    Raises:
        UserError: the checkpoint is torn, holds no average, or does not fit the model.
    """
    _together(lambda: verify(path), main_only=True)
    with _fitting(path, " the model"):
        plain = json.loads((path / "state.json").read_text())
        ema = plain["training"]["ema"]
        if averaged and ema is None:
            raise UserError(f"checkpoint {path} holds no averaged weights: it was trained without ema")
        model.load_state_dict(unflatten(plain["model"], _read(path / "model", dict(model.state_dict()))))
        if averaged:
            parameters = dict(model.named_parameters())  # tied ones once, as in the average
            average = unflatten(ema["average"], _read(path / "training", parameters))
            with torch.no_grad():
                for name, tensor in average.items():
                    parameters[name].copy_(tensor)


@contextmanager
def _fitting(path: Path, what: str = "") -> Iterator[None]:
    """Turn whatever is raised by contents that are not as expected into one line."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, *_WRITE_ERRORS) as error:
        reason = " ".join(str(error).split())[:300]
        named = reason if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: {reason}"
        raise UserError(f"checkpoint {path} does not fit{what}: {named}") from error


def _write(folder: Path, tree: Mapping[str, Any]) -> None:
    """All files but the manifest; each rank its own part."""
    training = {key: value for key, value in tree.items() if key not in ("model", "stream")}
    plain: dict[str, Any] = {"format": FORMAT, "world": _world()}
    for section, part in (("model", tree["model"]), ("training", training)):
        plain[section], tensors = flatten(part)
        _write_tensors(folder / section, tensors)
    if is_main():
        (folder / "state.json").write_text(json.dumps(plain))
    own = folder / _rank_folder(_rank())
    own.mkdir()
    stream, tensors = flatten(tree["stream"])
    (own / "stream.json").write_text(json.dumps(stream))
    if tensors:
        save_file(tensors, own / "stream.safetensors")


def _write_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    if not tensors:
        return
    if _world() > 1:
        save_distributed(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
        return
    folder.mkdir()
    whole = {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}
    save_file(whole, folder / f"{folder.name}.safetensors", metadata={"format": "pt"})


def _read(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a folder. Where a part of a tensor's name is the name of a sharded tensor of `like` and the shapes
    are equal, it comes sharded in the same way, and only this rank's part is read."""
    if not folder.exists():
        return {}
    single = folder / f"{folder.name}.safetensors"
    if single.exists() and not any(isinstance(tensor, DTensor) for tensor in like.values()):
        return load_file(single)
    reader = HuggingFaceStorageReader(str(folder))
    targets: dict[str, Any] = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)  # safetensors holds nothing else
        size, dtype = stored.size, stored.properties.dtype
        pattern = next((like[part] for part in name.split("/") if isinstance(like.get(part), DTensor)), None)
        if pattern is not None and pattern.shape == size:
            targets[name] = torch.zeros_like(pattern, dtype=dtype, requires_grad=False)
        else:
            targets[name] = torch.zeros(size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process may well read shards
        load_distributed(targets, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=_world() == 1)
    return targets


def _read_stream(path: Path, world: int) -> Any:
    """This rank's position in the data; with another number of ranks, the one position that all of them had."""
    if world == _world():
        return _read_rank(path / _rank_folder(_rank()))
    texts = {(path / _rank_folder(rank) / "stream.json").read_text() for rank in range(world)}
    files = list(path.glob("rank-*/stream.safetensors"))
    digests = {file_sha256(file) for file in files}
    if len(texts) > 1 or len(digests) > 1:
        raise UserError(
            f"checkpoint {path}: its {world} ranks stood at different places in the data, which {_world()} cannot "
            f"take over; start {world} processes"
        )
    return _read_rank(path / _rank_folder(0))


def _rank_folder(rank: int) -> str:
    return f"rank-{rank:05d}"


def _read_rank(folder: Path) -> Any:
    tensors = folder / "stream.safetensors"
    return unflatten(json.loads((folder / "stream.json").read_text()), load_file(tensors) if tensors.exists() else {})


def _seal(folder: Path, step: int) -> None:
    """Write the manifest; every file and folder is on the disk before it, and it before the rename."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sealed = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in files
    }
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"format": FORMAT, "step": step, "world": _world(), "files": sealed}, indent=1))
    for path in [*files, manifest, *(entry for entry in folder.rglob("*") if entry.is_dir()), folder]:
        sync(path)


def _replace(temporary: Path, final: Path) -> None:
    """Rename, after moving a folder of the same step out of the way: it is torn, or of an attempt taken back."""
    old = _aside(final, "old")
    if final.exists():
        os.rename(final, old)
    os.rename(temporary, final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _recover(folder: Path) -> None:
    """End what a kill between the two renames of `_replace` left: the new folder gets its name, or else the old one."""
    for old in folder.glob(".step-*.old"):
        final = folder / old.name.removeprefix(".").removesuffix(".old")
        for left in (_aside(final, "tmp"), old):
            if not final.exists():
                with suppress(UserError):
                    verify(left)
                    os.rename(left, final)


def _aside(final: Path, suffix: str) -> Path:
    """The name of a folder before it is `final`, or after it was: nobody takes it for a checkpoint."""
    return final.with_name(f".{final.name}.{suffix}")


def _steps(folder: Path) -> dict[int, Path]:
    found = {path: _NAME.fullmatch(path.name) for path in folder.glob("step-*")}
    return {int(match[1]): path for path, match in found.items() if match is not None}


def _no_room(error: BaseException) -> bool:
    """`is_disk_full`, also of an error that holds those of all ranks."""
    if isinstance(error, CheckpointException):
        return any(_no_room(failure[0]) for failure in error.failures.values())
    return is_disk_full(error)


def _together(action: Callable[[], None], *, main_only: bool = False) -> None:
    """Run `action` on every rank (or the main one) and wait for all; where one fails, all of them raise."""
    failure: BaseException | None = None
    if is_main() or not main_only:
        try:
            action()
        except (*_WRITE_ERRORS, UserError) as error:
            failure = error
    if _world() > 1:
        code = 0 if failure is None else errno.ENOSPC if _no_room(failure) else errno.EIO
        worst = torch.tensor(code)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        if failure is None and int(worst):
            failure = OSError(int(worst), f"another process failed: {os.strerror(int(worst))}")
    if failure is not None:
        raise failure


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
