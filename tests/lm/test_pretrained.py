"""Model folders from a package, from the hub (a server on the loopback), or one line saying how to get them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tenfold.lm
from tenfold.core.errors import UserError
from tenfold.lm import pretrained
from tenfold.lm.pretrained import MODELS, HubFile, Pretrained

FILES = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": b"weights"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that serves `tiny`; gives the list of files asked for."""
    folder = tmp_path / "hub" / "owner/tiny/resolve/revision"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.rsplit("/", 1)[1])
            super().do_GET()

        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "hub"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}/")
    yield asked
    server.shutdown()
    server.server_close()


def known(monkeypatch: pytest.MonkeyPatch, inside: str = "tiny.gguf") -> Pretrained:
    """Make `tiny` the only model known; its package is called `tiny_weights`."""
    files = tuple(HubFile(name, hashlib.sha256(content).hexdigest(), len(content)) for name, content in FILES.items())
    model = Pretrained(
        "tiny", "a model", "MIT", "tiny-weights", "tiny_weights", inside, "owner/tiny", "revision", files
    )
    monkeypatch.setattr(pretrained, "MODELS", {"tiny": model})
    return model


def installed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `tiny_weights` which cannot be imported, since its own dependencies are absent."""
    package = root / "site" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('a dependency is absent')")
    (package / "tiny.gguf").write_bytes(b"GGUF")
    (package / "model").mkdir()
    (package / "model" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(package.parent))
    return package


class Converter:
    """Stands for the conversion from GGUF; counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: Exception | None = None):
        self.calls = 0
        self.fault = fault
        module = types.ModuleType("tenfold.lm.gguf")
        module.convert = self.convert  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tenfold.lm.gguf", module)
        monkeypatch.setattr(tenfold.lm, "gguf", module, raising=False)

    def convert(self, gguf_path: Path, out_dir: Path) -> None:
        self.calls += 1
        assert gguf_path.read_bytes() == b"GGUF"
        out_dir.mkdir()
        (out_dir / "config.json").write_text("half")
        time.sleep(0.02)
        if self.fault is not None:
            raise self.fault
        for name, content in FILES.items():
            (out_dir / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def visible(cache: Path) -> list[str]:
    return sorted(entry.name for entry in cache.iterdir() if entry.suffix != ".lock")


def test_packaged_gguf_is_converted_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    installed(tmp_path, monkeypatch)
    converter = Converter(monkeypatch)
    folder = pretrained.path("tiny")
    assert folder == cache / "tiny"
    assert contents(folder) == FILES
    assert pretrained.path("tiny") == pretrained.get("Tiny") == folder
    assert converter.calls == 1
    assert visible(cache) == ["tiny"]


def test_force_converts_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    installed(tmp_path, monkeypatch)
    converter = Converter(monkeypatch)
    (pretrained.path("tiny") / "config.json").write_text("spoilt")
    assert contents(pretrained.get("tiny", force=True)) == FILES
    assert converter.calls == 2
    assert visible(cache) == ["tiny"]


def test_failed_conversion_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    installed(tmp_path, monkeypatch)
    Converter(monkeypatch, fault=KeyError("tensor"))
    with pytest.raises(KeyError, match="tensor"):
        pretrained.path("tiny")
    assert visible(cache) == []
    Converter(monkeypatch, fault=OSError(28, "No space left on device"))
    with pytest.raises(UserError, match=r"disk full: no room for .*/tiny; free some"):
        pretrained.path("tiny")
    assert visible(cache) == []


def test_remains_of_a_killed_conversion_do_not_enter(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch)
    installed(tmp_path, monkeypatch)
    Converter(monkeypatch)
    (cache / ".tiny.part").mkdir(parents=True)
    (cache / ".tiny.part" / "model-00002.safetensors").write_bytes(b"old")
    assert contents(pretrained.path("tiny")) == FILES


def test_callers_at_once_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    installed(tmp_path, monkeypatch)
    converter = Converter(monkeypatch)
    found: list[dict[str, bytes]] = []
    callers = [threading.Thread(target=lambda: found.append(contents(pretrained.path("tiny")))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [FILES] * 4
    assert converter.calls == 1


def test_packaged_folder_is_used_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, inside="model")
    package = installed(tmp_path, monkeypatch)
    assert pretrained.path("tiny") == pretrained.get("tiny") == package / "model"


def test_path_without_package_names_the_commands(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    with pytest.raises(UserError) as caught:
        pretrained.path("tiny")
    assert str(caught.value) == (
        f"model not found: tiny (neither in {cache / 'tiny'} nor as package tiny-weights); "
        "get it: make models, or tenfold models get tiny"
    )


def test_hub_is_the_way_without_package(hub: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    assert contents(pretrained.get("tiny")) == FILES
    assert pretrained.get("tiny") == pretrained.path("tiny") == cache / "tiny"
    assert hub == list(FILES)
    assert visible(cache) == ["tiny"]


def test_package_comes_before_the_hub(hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    installed(tmp_path, monkeypatch)
    Converter(monkeypatch)
    pretrained.get("tiny")
    assert hub == []


def test_interrupted_fetch_goes_on(
    hub: list[str], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch)
    weights = tmp_path / "hub/owner/tiny/resolve/revision/model.safetensors"
    weights.rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"tiny: package tiny-weights is not installed \(make models\); HTTP 404"):
        pretrained.get("tiny")
    assert not (cache / "tiny").exists()
    (tmp_path / "away").rename(weights)
    assert contents(pretrained.get("tiny")) == FILES
    assert hub == [*FILES, "model.safetensors"]


def test_wrong_content_from_the_hub(
    hub: list[str], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch)
    (tmp_path / "hub/owner/tiny/resolve/revision/model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(UserError, match="wrong content"):
        pretrained.get("tiny")
    assert not (cache / "tiny").exists()


def test_absent_both(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(pretrained, "download", functools.partial(pretrained.download, attempts=1))
    with pytest.raises(UserError, match=r"not installed \(make models\); no file from 127.0.0.1:1 \(.+\)") as caught:
        pretrained.get("tiny")
    assert "\n" not in str(caught.value)


def test_unknown_model() -> None:
    with pytest.raises(UserError, match=r"unknown model 'minilm-l6' \(did you mean all-minilm-l6-v2\?\); known: smol"):
        pretrained.get("minilm-l6")


def test_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    (row,) = pretrained.list_models()
    assert row == pretrained.PretrainedInfo(
        "tiny", "a model", "11 B", "MIT", "package tiny-weights, or hub owner/tiny", False
    )
    installed(tmp_path, monkeypatch)
    assert pretrained.list_models() == [dataclasses.replace(row, present=True)]


def test_known_models_are_pinned() -> None:
    assert set(MODELS) == {"smollm2-135m-instruct", "all-minilm-l6-v2"}
    for model in MODELS.values():
        assert len(model.revision) == 40
        assert {"config.json", "tokenizer.json", "model.safetensors"} <= {file.file for file in model.files}
        assert all(len(file.sha256) == 64 and file.size > 0 for file in model.files)


@pytest.mark.slow
def test_smollm2_from_its_package(smollm2_file: Path, cache: Path) -> None:
    from safetensors import safe_open

    folder = pretrained.path("smollm2-135m-instruct")
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 576
    assert (folder / "tokenizer.json").is_file()
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        assert tensors.get_slice("model.embed_tokens.weight").get_shape() == [49152, 576]
