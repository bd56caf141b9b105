"""Search over meshes: the fastest (data, expert, model) split that fits, dense and sparse side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from tenfold.core.errors import UserError
from tenfold.lm.cost import (
    Mesh,
    MoEPlacement,
    Shape,
    StepCost,
    find_shape,
    forward_flops,
    overhead_bound,
    parameters,
    step_cost,
)
from tenfold.lm.hardware import Hardware, find_hardware

STEP_TIME_BUDGET = 0.20  # the increase over dense that the paper calls healthy (reported as "below 20 %")


@dataclass(frozen=True)
class PlanRow:
    """One model on one mesh.

    Attributes:
        model: backbone, or backbone/experts.
        every: one sparse layer in so many; None for dense.
        mesh, cost: where it runs and what a step costs.
        parameters_total, parameters_active: counts; active are those one token meets.
        compute_ratio: FLOPs over the dense backbone's.
        ratio: whole step seconds over the dense backbone's on its best mesh; NaN where that, or this row, does not fit.
    """

    model: str
    every: int | None
    mesh: Mesh
    cost: StepCost
    parameters_total: float
    parameters_active: float
    compute_ratio: float
    ratio: float


@dataclass(frozen=True)
class PlanTable:
    """Rows of a plan, dense first; prints as a table, and `rows()` gives plain dictionaries.

    Attributes:
        hardware: devices the plan is for.
        devices: how many.
        batch_tokens: tokens a step.
        best: the fastest mesh of each model that fits; where none does, the one that needs least memory (`fits` is
            False, and the printed table shows no times).
        meshes: every mesh tried, of every model, fastest first.
        notes: what does not fit, and what each placement costs at least, in words.
    """

    hardware: Hardware
    devices: int
    batch_tokens: int
    best: tuple[PlanRow, ...]
    meshes: tuple[PlanRow, ...]
    notes: tuple[str, ...]

    def rows(self, every_mesh: bool = False) -> list[dict[str, Any]]:
        """One dictionary a model, or a mesh of a model: seconds (`*_s`), gigabytes (`memory_gb`), counts and ratios."""
        return [_as_dict(row) for row in (self.meshes if every_mesh else self.best)]

    def cells(self) -> list[tuple[str, ...]]:
        """Lines of the printed table: what it is, then one cell a model."""
        rows = self.rows()
        lines: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
            ("", lambda r: r["model"]),
            ("sparse layers", lambda r: f"1 in {r['every']}" if r["every"] else "none"),
            ("parameters", lambda r: _count(r["parameters_total"])),
            ("active parameters", lambda r: _count(r["parameters_active"])),
            ("mesh, data x expert x model", lambda r: r["mesh"] if r["fits"] else "none fits"),
            ("FLOPs over dense", lambda r: f"{r['compute_ratio']:.4f}"),
            ("compute, ms", _milliseconds("compute_s")),
            ("all-to-all, ms", _milliseconds("all_to_all_s")),
            ("model axis, ms", _milliseconds("model_axis_s")),
            (f"data axis, ms ({self.best[0].cost.overlap:.0%} hidden)", _milliseconds("data_axis_s")),
            ("step, ms", _milliseconds("total_s")),
            ("step over dense", lambda r: "-" if math.isnan(r["ratio"]) else f"{r['ratio']:.3f}"),
            ("memory, GB", lambda r: f"{r['memory_gb']:.1f}" if r["fits"] else f"at least {r['memory_gb']:.1f}"),
        ]
        return [(label, *(cell(row) for row in rows)) for label, cell in lines]

    @property
    def title(self) -> str:
        return (
            f"{self.devices} x {self.hardware.name} at MFU {self.hardware.mfu:g}, {self.batch_tokens:,} tokens a step"
        )

    def __str__(self) -> str:
        cells = self.cells()
        first, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
        lines = [
            "  ".join([label.ljust(first), *(cell.rjust(w) for cell, w in zip(values, widths, strict=True))])
            for label, *values in cells
        ]
        return "\n".join([self.title, *lines, *self.notes])

    def __rich__(self) -> Group:
        header, *cells = self.cells()
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for i, name in enumerate(header):
            table.add_column(name, justify="right" if i else "left", no_wrap=True)
        for line in cells:
            table.add_row(*line)
        return Group(table, *self.notes)  # below it and not its caption, which would be folded to its width


_SECONDS = ("compute_s", "all_to_all_s", "model_axis_s", "data_axis_s", "total_s")


def _as_dict(row: PlanRow) -> dict[str, Any]:
    cost = row.cost
    return {
        "model": row.model,
        "every": row.every,
        "parameters_total": row.parameters_total,
        "parameters_active": row.parameters_active,
        "mesh": str(row.mesh),
        "data": row.mesh.data,
        "expert": row.mesh.expert,
        "model_axis": row.mesh.model,
        "compute_ratio": row.compute_ratio,
        "ratio": row.ratio,
        **{key: getattr(cost, key) for key in _SECONDS},
        "memory_gb": cost.memory_bytes / 1e9,
        "fits": cost.fits,
    }


def _milliseconds(key: str) -> Callable[[dict[str, Any]], str]:
    """The cell of a time; a model that fits nowhere has none."""
    return lambda row: f"{1e3 * row[key]:.4g}" if row["fits"] else "-"


def _count(value: float) -> str:
    return f"{value / 1e9:.2f}B" if value >= 1e9 else f"{value / 1e6:.1f}M"


def candidate_meshes(shape: Shape, moe: MoEPlacement | None, devices: int, batch_tokens: int) -> Iterator[Mesh]:
    """Every split of `devices` that the tensors allow.

    The model axis divides heads, key/value heads, feed-forward and expert widths; the expert axis divides the experts
    (1 for dense); data x expert divides the sequences of a batch.
    """
    sequences = max(1, batch_tokens // shape.sequence)
    model_divides = [shape.heads, shape.kv_heads or shape.heads, shape.hidden]
    if moe is not None and moe.hidden is not None:
        model_divides.append(moe.hidden)
    experts = moe.num_experts if moe else 1
    for model in _divisors(devices):
        if any(size % model for size in model_divides):
            continue
        for expert in _divisors(devices // model):
            data = devices // (model * expert)
            if experts % expert == 0 and sequences % (data * expert) == 0:
                yield Mesh(data, expert, model)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def plan(
    shape: Shape | str,
    moe: MoEPlacement | Sequence[MoEPlacement] | None = None,
    hardware: Hardware | str = "h100",
    devices: int = 256,
    *,
    batch_tokens: int = 4_194_304,
    overlap: float = 0.8,
    fully_sharded: bool = False,
) -> PlanTable:
    """Step time and memory of a dense backbone and its sparse versions, each on its best mesh.

    Args:
        shape: a `Shape` or the name of a preset (1.6B, 6.4B, 12.6B, 29.6B).
        moe: one placement, several, or None for dense alone.
        hardware: a `Hardware` or the name of a preset (h100, h200, a100, tpu-v5p, tpu-v4, cpu).
        devices: how many; all divisors are tried.
        batch_tokens: tokens of one step, the same for every model.
        overlap: share of the gradient reduction hidden behind the backward pass, in [0, 1].
        fully_sharded: weights, gradients and optimizer split over their replicas (FSDP) instead of repeated.
    Returns:
        The table; the dense row first, ratios against it.
    Raises:
        UserError: unknown preset, or no mesh divides the heads, widths, experts and batch.
    """
    shape, hardware = find_shape(shape), find_hardware(hardware)
    if devices < 1:
        raise ValueError(f"devices: got {devices}, need at least 1")
    placements: list[MoEPlacement | None] = [None]
    if isinstance(moe, MoEPlacement):
        placements.append(moe)
    elif moe is not None:
        placements.extend(moe)
    best: list[PlanRow] = []
    meshes: list[PlanRow] = []
    notes: list[str] = []
    for placement in placements:
        cost = partial(step_cost, shape, placement, hardware, batch_tokens=batch_tokens, overlap=overlap)
        costs = [
            (mesh, cost(mesh, fully_sharded=fully_sharded))
            for mesh in candidate_meshes(shape, placement, devices, batch_tokens)
        ]
        if not costs:
            name = placement.label(shape) if placement else shape.name
            raise UserError(
                f"devices: no data x expert x model split of {devices} divides {name} and its "
                f"{max(1, batch_tokens // shape.sequence)} sequences a step; change devices or batch_tokens"
            )
        fitting = [pair for pair in costs if pair[1].fits]
        if fitting:
            chosen = min(fitting, key=lambda p: p[1].total_s)
        else:
            chosen = min(costs, key=lambda p: p[1].memory_bytes)
            notes.append(_misfit(shape, placement, chosen[1], devices))
        reference = best[0].cost if best else chosen[1]
        dense_s = reference.total_s if reference.fits else math.nan
        best.append(_row(shape, placement, *chosen, dense_s))
        meshes.extend(_row(shape, placement, *p, dense_s) for p in sorted(costs, key=lambda p: p[1].total_s))
    notes.extend(note for p in placements if p is not None for note in _notes(shape, p))
    return PlanTable(hardware, devices, batch_tokens, tuple(best), tuple(meshes), tuple(notes))


def _row(shape: Shape, moe: MoEPlacement | None, mesh: Mesh, cost: StepCost, dense_s: float) -> PlanRow:
    count = parameters(shape, moe)
    return PlanRow(
        model=moe.label(shape) if moe else shape.name,
        every=moe.every if moe else None,
        mesh=mesh,
        cost=cost,
        parameters_total=count.total,
        parameters_active=count.active,
        compute_ratio=forward_flops(shape, moe) / forward_flops(shape),
        ratio=cost.total_s / dense_s if cost.fits else math.nan,
    )


def _misfit(shape: Shape, moe: MoEPlacement | None, cost: StepCost, devices: int) -> str:
    name = f"{moe.label(shape)} (1 in {moe.every})" if moe else shape.name
    return (
        f"{name} does not fit on {devices} devices: it needs at least {cost.memory_bytes / 1e9:.1f} GB a device, "
        f"there are {cost.memory_limit / 1e9:.1f}"
    )


def _notes(shape: Shape, moe: MoEPlacement) -> list[str]:
    """The compute bound of this placement, and the placements that stay under the healthy increase."""
    width = (moe.hidden or shape.hidden) / shape.hidden
    share = 3 * shape.dim * shape.hidden / (3 * shape.dim * shape.hidden + shape.attention_parameters)
    bound = overhead_bound(moe.every, moe.slots, width, share)
    lines = [
        f"one sparse layer in {moe.every}, {moe.slots:g} expert slots a token: {bound:+.0%} weight FLOPs in the layers"
    ]
    if bound >= STEP_TIME_BUDGET:
        # The bound falls as 1 / every, so this is the sparsest placement above the budget, plus one.
        enough = math.floor(moe.every * bound / STEP_TIME_BUDGET) + 1
        lines.append(
            f"below {STEP_TIME_BUDGET:.0%}: one sparse layer in {enough}, narrower experts, or one slot a token; "
            "this counts weight FLOPs alone, step over dense counts communication too"
        )
    return lines
