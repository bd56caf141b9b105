from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from tenfold.core.config import (
    bind,
    from_json,
    need,
    need_seeds,
    parse,
    read_json,
    restore_non_finite,
    take_preset,
    to_json,
)
from tenfold.core.errors import UserError


@dataclass(frozen=True)
class Experts:
    number: int = 8


@dataclass(frozen=True)
class Model:
    dim: int = 64
    """Model width, in numbers."""
    kind: Literal["dense", "moe"] = "dense"
    experts: Experts | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim: got {self.dim}, need at least 1")


@dataclass(frozen=True)
class Config:
    """A config."""

    model: Model = Model()
    sizes: tuple[Model, ...] = (Model(), Model(dim=3, experts=Experts()))
    seeds: tuple[int, ...] = (0, 1)
    pair: tuple[int, float] = (1, 2.0)
    fast: bool = False
    out: Path | None = None
    weights: dict[str, float] | None = None
    lr: float = 3e-3  # peak learning rate

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr: got {self.lr}, need > 0")


@dataclass(frozen=True)
class Needed:
    steps: int


PRESETS = {"tiny": Config(), "laptop": Config(lr=1.0)}


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(out=Path("a b"), seeds=(), weights={"text": 0.45}, fast=True),
        Config(model=Model(experts=Experts(2), rate=math.inf), sizes=()),
    ],
)
def test_json_round_trip(config: Config) -> None:
    assert from_json(Config, json.loads(json.dumps(to_json(config), allow_nan=False))) == config


def test_absent_fields_take_their_defaults() -> None:
    assert from_json(Config, {"lr": 1}) == Config(lr=1.0)
    assert isinstance(from_json(Config, {"lr": 1}).lr, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model": {"dimm": 3}}, "run.json: model.dimm: unknown field (did you mean dim?)"),
        ({"model": {"dim": "3"}}, 'run.json: model.dim: got "3", need int'),
        ({"model": {"dim": True}}, "run.json: model.dim: got true, need int"),
        ({"model": {"dim": 3.0}}, "run.json: model.dim: got 3.0, need int"),
        ({"model": {"dim": 0}}, "run.json: model: dim: got 0, need at least 1"),
        ({"model": {"kind": "sparse"}}, "run.json: model.kind: got \"sparse\", need one of 'dense', 'moe'"),
        ({"model": {"experts": {"count": 3}}}, "run.json: model.experts.count: unknown field"),
        ({"model": {"experts": 3}}, "run.json: model.experts: got 3, need Experts or null"),
        ({"model": None}, "run.json: model: got null, need an object with the fields of Model"),
        ({"sizes": [{}, {"dim": []}]}, "run.json: sizes.1.dim: got [], need int"),
        ({"seeds": 3}, "run.json: seeds: got 3, need tuple[int, ...]"),
        ({"seeds": [0, "a"]}, 'run.json: seeds.1: got "a", need int'),
        ({"pair": [1]}, "run.json: pair: got [1], need 2 values"),
        ({"fast": 1}, "run.json: fast: got 1, need bool"),
        ({"lr": None}, "run.json: lr: got null, need float"),
        ({"lr": -1.0}, "run.json: lr: got -1.0, need > 0"),
        ({"weights": {"text": "x"}}, 'run.json: weights: got {"text": "x"}, need dict[str, float] or null'),
        ([], "run.json: got [], need an object with the fields of Config"),
    ],
)
def test_from_json_refuses_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_json(Config, data, where="run.json")
    assert str(caught.value) == message


def test_a_required_field_must_be_there() -> None:
    with pytest.raises(UserError, match=r"config\.json: steps: missing, need int"):
        from_json(Needed, {})


def test_numbers_of_torch_and_numpy_become_plain() -> None:
    values = {"a": torch.tensor(2), "b": np.float32(0.5), "c": np.arange(2), "d": torch.tensor([math.nan])}
    assert json.dumps(to_json(values), allow_nan=False) == '{"a": 2, "b": 0.5, "c": [0, 1], "d": [{"$float": "NaN"}]}'
    back = restore_non_finite(to_json([math.inf, -math.inf, {"x": math.nan}]))
    assert back[:2] == [math.inf, -math.inf]
    assert math.isnan(back[2]["x"])


def test_text_that_spells_a_number_stays_text() -> None:
    texts = {"answers": ["NaN", "Infinity", "-Infinity"], "$float": "other data", "nested": {"$float": "x"}}
    assert restore_non_finite(json.loads(json.dumps(to_json(texts)))) == texts


@dataclass(frozen=True)
class Loose:
    limit: float
    either: float | str = 0.0
    anything: Any = None


def test_a_config_takes_non_finite_floats_as_written_and_as_typed_by_hand() -> None:
    config = Loose(math.inf, -math.inf, [math.inf])
    assert from_json(Loose, json.loads(json.dumps(to_json(config), allow_nan=False))) == config
    assert from_json(Loose, {"limit": "Infinity", "either": "Infinity"}) == Loose(math.inf, "Infinity")


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot write object as JSON"):
        to_json({"x": object()})


def test_read_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="file not found: "):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"not valid JSON: .*config\.json"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], Config()),
        (["laptop"], Config(lr=1.0)),
        (["laptop", "--model.dim", "9"], Config(lr=1.0, model=Model(dim=9))),
        (["--model.dim=9", "--fast", "--seeds", "3", "4"], Config(model=Model(dim=9), fast=True, seeds=(3, 4))),
        (["--sizes.1.experts.number", "2"], Config(sizes=(Model(), Model(dim=3, experts=Experts(2))))),
        (["--out", "here", "--model.rate", "2"], Config(out=Path("here"), model=Model(rate=2.0))),
    ],
)
def test_parse(argv: list[str], expected: Config) -> None:
    assert parse(PRESETS, argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lptop"], "unknown preset 'lptop' (did you mean laptop?); known: tiny, laptop"),
        (["--model.dimm", "3"], "unknown option --model.dimm (did you mean --model.dim?)"),
        (["--model.dimm=3"], "unknown option --model.dimm (did you mean --model.dim?)"),
        (["--zzz"], "unknown option --zzz (see --help)"),
        (["--model.dim", "x"], "--model.dim: invalid literal for int() with base 10: 'x'"),
        (["--model.dim", "0"], "--model.dim: got 0, need at least 1"),
        (["--lr", "0"], "--lr: got 0.0, need > 0"),
        (["--model.kind", "c"], "invalid choice 'c' for argument '--model.kind'. Expected one of ('dense', 'moe')."),
        (["--pair", "1"], "Missing value for argument '--pair'. Expected 2 values."),
        (["laptop", "more"], "unexpected argument 'more'; options are spelt --name value (see --help)"),
    ],
)
def test_parse_refuses_in_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse(PRESETS, argv, prog="tenfold x train")
    assert str(caught.value).removeprefix("tenfold x train: ").removeprefix("Config: ") == message
    assert str(caught.value).startswith("tenfold x train: ")
    assert capsys.readouterr().err == ""  # tyro's own box is not shown


def test_help_shows_field_docs_and_the_presets_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(PRESETS, ["laptop", "--help"], prog="tenfold x train")
    shown = capsys.readouterr().out
    assert caught.value.code in (0, None)
    assert "Model width, in numbers. (default: 64)" in shown
    assert "peak learning rate (default: 1.0)" in shown


def test_take_preset_leaves_the_rest() -> None:
    assert take_preset(PRESETS, ["laptop", "--lr", "1"]) == ("laptop", ["--lr", "1"])
    assert take_preset(PRESETS, ["--lr", "1"]) == ("tiny", ["--lr", "1"])


def plan(path: Path, devices: int = 3, *, names: tuple[str, ...] = ("a",)) -> tuple[Path, int, tuple[str, ...]]:
    """Plan.

    Args:
        path: a file.
        devices: how many.
    """
    return path, devices, names


def test_bind_reads_a_functions_arguments() -> None:
    assert bind(plan, ["x", "--devices", "4", "--names", "b", "c"])() == (Path("x"), 4, ("b", "c"))


def test_bind_calls_nothing_before_the_arguments_are_right() -> None:
    calls: list[int] = []

    def verb(number: int = 1) -> None:
        """Verb."""
        calls.append(number)

    with pytest.raises(UserError, match="unknown option --numbr \\(did you mean --number\\?\\)"):
        bind(verb, ["--numbr", "3"])
    assert calls == []
    bind(verb, ["--number", "3"])()
    assert calls == [3]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "tenfold x plan: missing PATH a file. (required)"),
        (["x", "--devices", "q"], "tenfold x plan: --devices: invalid literal for int() with base 10: 'q'"),
        (["x", "y"], "tenfold x plan: unexpected argument 'y'; options are spelt --name value (see --help)"),
    ],
)
def test_bind_refuses_in_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        bind(plan, argv, prog="tenfold x plan")
    assert str(caught.value) == message


def test_an_error_of_the_verb_itself_passes_unchanged() -> None:
    def verb() -> None:
        """Verb."""
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        bind(verb, [], prog="tenfold x verb")()


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (0, (1,), "x: got 0, need at least 1"),
        (9, (1, 8), "x: got 9, need at least 1, at most 8"),
        (math.nan, (0, 1), "x: got nan, need at least 0, at most 1"),
        (math.inf, (0,), "x: got inf, need at least 0"),
        ((1, 2, 0), (1,), "x: got 0, need at least 1"),
    ],
)
def test_a_number_out_of_range_is_named(value: Any, bounds: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        need("x", value, *bounds)
    assert str(caught.value) == message


def test_numbers_in_range() -> None:
    for value in (None, 1, 8, (1, 8), ()):
        need("x", value, 1, 8)
    need("x", 1e-9, 0, above=True)
    with pytest.raises(ValueError, match="x: got 0, need more than 0"):
        need("x", 0, 0, above=True)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ((), "seeds: got (), need one or more, all different"),
        ((1, 1), "seeds: got (1, 1), need one or more, all different"),
        ((0, -1), "seeds: got (0, -1), need 0 or more, below 2 to the 40th"),
        ((2**40,), f"seeds: got ({2**40},), need 0 or more, below 2 to the 40th"),
    ],
)
def test_seeds_are_checked(seeds: tuple[int, ...], message: str) -> None:
    need_seeds((0, 2**40 - 1))
    with pytest.raises(ValueError) as caught:
        need_seeds(seeds)
    assert str(caught.value) == message
