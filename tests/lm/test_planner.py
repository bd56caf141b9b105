"""Mesh search: the fastest split that fits, and the printed table."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
from rich.console import Console

from tenfold.core.errors import UserError
from tenfold.lm.cost import MoEPlacement, Shape, step_cost
from tenfold.lm.hardware import HARDWARE
from tenfold.lm.planner import candidate_meshes, plan

TOY = Shape("toy", layers=4, dim=8, hidden=12, heads=4, vocab=32, sequence=10)


def test_candidates_are_all_the_splits_the_tensors_allow() -> None:
    moe = MoEPlacement(num_experts=6, every=2)
    meshes = {(m.data, m.expert, m.model) for m in candidate_meshes(TOY, moe, 12, batch_tokens=120)}
    by_hand = {
        (d, e, m)
        for d in range(1, 13) for e in range(1, 13) for m in range(1, 13)
        if d * e * m == 12 and 4 % m == 0 and 12 % m == 0 and 6 % e == 0 and 12 % (d * e) == 0
    }  # fmt: skip
    assert meshes == by_hand
    assert (12, 1, 1) in meshes
    assert (2, 6, 1) in meshes
    assert (1, 12, 1) not in meshes  # 12 does not divide 6 experts
    assert all(m.expert == 1 for m in candidate_meshes(TOY, None, 12, batch_tokens=120))


def test_batch_narrows_the_candidates() -> None:
    assert {m.data for m in candidate_meshes(TOY, None, 4, batch_tokens=20)} == {1, 2}  # two sequences a step


def test_best_is_the_fastest_that_fits() -> None:
    table = plan("6.4B", MoEPlacement(num_experts=64), "h100", 64, fully_sharded=True)
    for row in table.best:
        rivals = [m for m in table.meshes if m.model == row.model and m.cost.fits]
        assert row.cost.fits
        assert row.cost.total_s == min(m.cost.total_s for m in rivals)
    assert table.best[0].ratio == 1.0
    assert table.best[1].ratio == pytest.approx(table.best[1].cost.total_s / table.best[0].cost.total_s)


def test_without_a_fitting_mesh_the_least_memory_is_told_and_no_time() -> None:
    table = plan("29.6B", None, "a100", 4)
    (row,) = table.best
    assert not row.cost.fits
    assert row.cost.memory_bytes == min(m.cost.memory_bytes for m in table.meshes)
    gigabytes = f"{row.cost.memory_bytes / 1e9:.1f}"
    assert table.notes == (
        f"29.6B does not fit on 4 devices: it needs at least {gigabytes} GB a device, there are 80.0",
    )
    cells = dict(table.cells())
    assert cells["mesh, data x expert x model"] == "none fits"
    assert cells["step, ms"] == cells["step over dense"] == "-"
    assert cells["memory, GB"] == f"at least {gigabytes}"
    assert "fit" not in str(plan("29.6B", None, "a100", 256, fully_sharded=True))


def test_there_is_a_ratio_only_between_models_that_both_fit() -> None:
    dense, sparse, sparser = plan(
        "12.6B", [MoEPlacement(), MoEPlacement(every=2)], "h100", 256, batch_tokens=2**23, fully_sharded=True
    ).best
    assert dense.ratio == 1.0 and sparse.ratio > 1
    assert sparse.cost.fits and not sparser.cost.fits and math.isnan(sparser.ratio)
    # Experts far narrower than the dense layers fit where those do not: there is nothing to compare with.
    narrow = MoEPlacement(num_experts=2, every=1, hidden=64)
    needs = [min(row.cost.memory_bytes for row in plan("1.6B", moe, "a100", 2).meshes) for moe in (None, narrow)]
    assert needs[1] < needs[0]
    dense, sparse = plan("1.6B", narrow, dataclasses.replace(HARDWARE["a100"], memory_bytes=sum(needs) / 2), 2).best
    assert sparse.cost.fits and not dense.cost.fits
    assert math.isnan(sparse.ratio) and math.isnan(dense.ratio)


def test_rows_are_plain_and_complete() -> None:
    table = plan("1.6B", [MoEPlacement(), MoEPlacement(every=2)], "tpu-v5p", 256)
    dense, sparse, denser = table.rows()
    assert [dense["model"], sparse["model"], denser["model"]] == ["1.6B", "1.6B/256E", "1.6B/256E"]
    assert [dense["every"], sparse["every"], denser["every"]] == [None, 4, 2]
    assert sparse["compute_ratio"] == pytest.approx(1.1426, abs=1e-4)
    assert dense["compute_ratio"] == dense["ratio"] == 1.0
    assert sparse["data"] * sparse["expert"] * sparse["model_axis"] == 256
    assert sparse["parameters_total"] > 60e9 > 2e9 > sparse["parameters_active"]
    cost = table.best[1].cost
    assert sparse["total_s"] == cost.total_s
    assert sparse["memory_gb"] == cost.memory_bytes / 1e9
    assert len(table.rows(every_mesh=True)) == len(table.meshes) > 3


def test_a_row_repeats_step_cost() -> None:
    table = plan("1.6B", MoEPlacement(), "h100", 16, batch_tokens=2**20, overlap=0.5)
    row = table.best[1]
    again = step_cost("1.6B", MoEPlacement(), HARDWARE["h100"], row.mesh, batch_tokens=2**20, overlap=0.5)
    assert row.cost == again


def test_printed_table_fits_a_terminal_and_says_the_bound() -> None:
    table = plan("6.4B", MoEPlacement(every=2), "h100", 256)
    text = str(table)
    assert "1.3048" in text
    assert "+33%" in text
    assert "below 20%: one sparse layer in 4" in text and "counts weight FLOPs alone" in text
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    assert "1.3048" in out.getvalue()
    assert "one sparse layer in 2, 2 expert slots a token: +33% weight FLOPs in the layers\n" in out.getvalue()
    assert "step over dense" in out.getvalue()
    assert "…" not in out.getvalue()


def test_a_placement_within_the_healthy_increase_gets_no_advice() -> None:
    assert len(plan("6.4B", MoEPlacement(every=4), "h100", 256).notes) == 1


def test_refusals() -> None:
    with pytest.raises(ValueError, match="devices: got 0"):
        plan("1.6B", None, "h100", 0)
    with pytest.raises(
        UserError, match=r"devices: no data x expert x model split of 7 divides 1\.6B and its 1024 sequences"
    ):
        plan("1.6B", None, "h100", 7)
    with pytest.raises(UserError, match="shape: got 'x'"):
        plan("x", None)
    with pytest.raises(UserError, match="hardware: got 'abacus'"):
        plan("1.6B", None, "abacus")
    assert plan(dataclasses.replace(TOY, name="own"), None, "cpu", 1).rows()[0]["model"] == "own"
