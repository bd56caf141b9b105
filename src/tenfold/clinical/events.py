"""Subjects with a history up to a trigger and the time of several events after it: the data that survival models read."""

# Shape legend: N subjects, B of a batch, T context steps, D observations, U interventions, G static values, E events

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tenfold.clinical.series import Scaling

Beyond = Literal["censor", "official"]
PARTS = ("train", "valid", "test")
MOST_SLOTS, MOST_HOURS = 10_000, 1e6  # of an event, and of a slot: beyond lie damaged files


@dataclass(frozen=True)
class EventSpec:
    """An event and the grid its time is predicted on: `n_slots` slots of `slot_hours` from the trigger on."""

    name: str
    slot_hours: float
    n_slots: int
    weight: float = 1.0  # in the sum of the losses

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: got '', need the name of an event")
        if not 0 < self.slot_hours <= MOST_HOURS:
            raise ValueError(
                f"slot_hours: got {self.slot_hours}, need > 0 (event {self.name!r}), at most {MOST_HOURS:.0f}"
            )
        if not 1 <= self.n_slots <= MOST_SLOTS:
            raise ValueError(
                f"n_slots: got {self.n_slots}, need at least 1 (event {self.name!r}), at most {MOST_SLOTS}"
            )
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight: got {self.weight}, need a finite number >= 0 (event {self.name!r})")


def check_events(events: Sequence[EventSpec]) -> None:
    """ValueError where there are none, or two of one name."""
    names = [event.name for event in events]
    if not names:
        raise ValueError("events: got none, need at least one EventSpec")
    if len(set(names)) != len(names):
        raise ValueError(f"events: got {', '.join(names)}, need names that differ")


def to_slots(
    time_hours: ArrayLike | Tensor, observed: ArrayLike | Tensor, spec: EventSpec, beyond: Beyond = "censor"
) -> tuple[Any, Any, Any]:
    """Times of one event as slots 1..K; slot k covers the hours [(k-1) slot_hours, k slot_hours).

    Args:
        time_hours: hours from the trigger to the event or to the end of follow-up, any shape, finite and >= 0.
        observed: True where the event was seen, False where follow-up ended first; same shape.
        spec: the grid.
        beyond: what an event after slot K becomes: "censor", a subject that survived slot K; "official", an event in
            slot K, which only a geometric tail (`last_slot_loss`) makes right.
    Returns:
        slot (int64, 1..K; censored subjects survive theirs), observed (bool), tail (int64): slots after K up to and
        with that of the time, 0 within the grid. Tensors if `time_hours` is one, else arrays.
    Raises:
        ValueError: a time that is negative or not finite, `observed` other than 0 or 1, shapes that differ.
    Source: Xue et al. 2020, the authors' code.
    """
    times = np.asarray(time_hours, dtype=np.float64)
    seen = _flags("observed", observed)
    if times.shape != seen.shape:
        raise ValueError(f"observed: got shape {seen.shape}, need {times.shape} as time_hours")
    if beyond not in ("censor", "official"):
        raise ValueError(f"beyond: got {beyond!r}, need 'censor' or 'official'")
    _check_times(times.reshape(-1, 1), (spec.name,))
    index = np.floor(times / spec.slot_hours)
    tail = np.maximum(index - spec.n_slots + 1, 0).astype(np.int64)
    slot = np.minimum(index + 1, spec.n_slots).astype(np.int64)
    if beyond == "censor":
        seen = seen & (tail == 0)
    if isinstance(time_hours, Tensor):
        return tuple(torch.as_tensor(part, device=time_hours.device) for part in (slot, seen, tail))  # type: ignore[return-value]
    return slot, seen, tail


def part_of(identifier: str) -> str:
    """The part ("train" 60 %, "valid" 20 %, "test" 20 %) of a patient, by the first byte of SHA-256 of its id."""
    first = hashlib.sha256(identifier.encode()).digest()[0]
    return "train" if first < 154 else "valid" if first < 205 else "test"


def rows_of_parts(ids: Sequence[str], parts: Sequence[str] = ()) -> dict[str, NDArray[np.int64]]:
    """Rows of "train", "valid" and "test"; a patient's rows all go to one part.

    Args:
        ids: the patient of each row.
        parts: the part of each row, where data come with a split of their own; empty: by `part_of`.
    """
    named = np.array(list(parts) or [part_of(identifier) for identifier in ids], dtype="U5")
    return {part: np.flatnonzero(named == part) for part in PARTS}


@dataclass(frozen=True, eq=False)
class EventTimeDataset:
    """Context, interventions and event times of N subjects; checks itself when made.

    Attributes:
        x: observations [N, T, D], float32, scaled; entries outside the mask become 0.
        mask: where x was observed, bool [N, T, D].
        u: interventions [N, T, U], float32; U may be 0.
        length: context steps of each subject, int64 [N], 0..T; 0 is a subject without any visit.
        static: values that do not change [N, G], float32; 0 where missing.
        time_hours: hours from the trigger to the event or to the end of follow-up, float64 [N, E]; 0 where not at risk.
        observed: whether the event was seen, bool [N, E].
        at_risk: False where the event came before the trigger or follow-up does not reach it, bool [N, E].
        events: the grid of each event.
        ids: the patient of each row; default "0", "1", ...
        observation_names, intervention_names, static_names: of D, U and G; default x0, u0, static0, ...
        parts: "train", "valid" or "test" of each row, where the source says so; else the split is by SHA-256 of the id.
        prediction_time: the trigger, datetime64 of microseconds [N], where the source has clock times.
        scaling: of "observations" and of "static" values, to be kept with a model and used on new data.
    Raises:
        ValueError: naming the field, and the row and the event where there is one.
    """

    x: NDArray[np.float32]
    mask: NDArray[np.bool_]
    u: NDArray[np.float32]
    length: NDArray[np.int64]
    static: NDArray[np.float32]
    time_hours: NDArray[np.float64]
    observed: NDArray[np.bool_]
    at_risk: NDArray[np.bool_]
    events: tuple[EventSpec, ...]
    ids: list[str] = field(default_factory=list)
    observation_names: tuple[str, ...] = ()
    intervention_names: tuple[str, ...] = ()
    static_names: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    prediction_time: NDArray[np.datetime64] | None = None
    scaling: Mapping[str, Scaling] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, shape in (("x", "[N, T, D]"), ("u", "[N, T, U]"), ("static", "[N, G]"), ("length", "[N]")):
            if getattr(self, name) is None:
                raise ValueError(f"{name}: got None, need an array {shape}; without such columns one of width 0")
        x, mask = np.array(self.x, dtype=np.float32), _flags("mask", self.mask)
        if x.ndim != 3:
            raise ValueError(f"x: got shape {x.shape}, need [N, T, D]")
        if mask.shape != x.shape:
            raise ValueError(f"mask: got shape {mask.shape}, need {x.shape} as x")
        x[~mask] = 0.0  # whatever stood there, NaN included
        self._set(
            x=x,
            mask=mask,
            u=np.asarray(self.u, dtype=np.float32),
            length=np.asarray(self.length, dtype=np.int64),
            static=np.asarray(self.static, dtype=np.float32),
            time_hours=np.asarray(self.time_hours, dtype=np.float64),
            observed=_flags("observed", self.observed),
            at_risk=_flags("at_risk", self.at_risk),
            events=tuple(self.events),
            ids=[str(identifier) for identifier in self.ids] or [str(row) for row in range(len(x))],
            parts=tuple(self.parts),
        )
        check_events(self.events)
        self._check_shapes()
        self._check_values()
        self._name_columns()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_shapes(self) -> None:
        count, steps, _ = self.x.shape
        needs: dict[str, tuple[int | None, ...]] = {
            "u": (count, steps, None),
            "length": (count,),
            "static": (count, None),
            **dict.fromkeys(("time_hours", "observed", "at_risk"), (count, len(self.events))),
        }
        for name, need in needs.items():
            got = getattr(self, name).shape
            if len(got) != len(need) or any(b not in (a, None) for a, b in zip(got, need, strict=True)):
                wanted = ", ".join("any" if size is None else str(size) for size in need)
                raise ValueError(
                    f"{name}: got shape {got}, need ({wanted}): x has shape {self.x.shape}, events are {len(self.events)}"
                )
        for name, values in (
            ("ids", self.ids),
            ("parts", self.parts or self.ids),
            ("prediction_time", self.prediction_time),
        ):
            if values is not None and len(values) != count:
                raise ValueError(f"{name}: got {len(values)}, need {count}, one a row")

    def _check_values(self) -> None:
        for name in ("x", "u", "static"):
            bad = ~np.isfinite(getattr(self, name))
            if bad.any():
                raise ValueError(
                    f"{name}: got a value that is not finite (row {np.argwhere(bad)[0][0]}); leave it out of the mask, or give 0"
                )
        bad = (self.length < 0) | (self.length > self.x.shape[1])
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(f"length: got {self.length[row]} (row {row}), need 0..{self.x.shape[1]}, the steps of x")
        _check_times(self.time_hours, tuple(event.name for event in self.events))
        if not set(self.parts) <= set(PARTS):
            raise ValueError(f"parts: got {sorted(set(self.parts) - set(PARTS))}, need {', '.join(PARTS)}")

    def _name_columns(self) -> None:
        for name, prefix, values in (
            ("observation_names", "x", self.x),
            ("intervention_names", "u", self.u),
            ("static_names", "static", self.static),
        ):
            width = values.shape[-1]
            names = tuple(getattr(self, name)) or tuple(f"{prefix}{i}" for i in range(width))
            if len(names) != width:
                raise ValueError(f"{name}: got {len(names)}, need {width}, one a column")
            self._set(**{name: names})

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, rows: ArrayLike) -> EventTimeDataset:
        """The given rows, in that order."""
        index = _index(rows)
        changed: dict[str, Any] = {
            name: getattr(self, name)[index]
            for name in ("x", "mask", "u", "length", "static", "time_hours", "observed", "at_risk")
        }
        changed["ids"] = [self.ids[row] for row in index]
        changed["parts"] = tuple(self.parts[row] for row in index) if self.parts else ()
        if self.prediction_time is not None:
            changed["prediction_time"] = self.prediction_time[index]
        return dataclasses.replace(self, **changed)

    def batch(self, rows: ArrayLike | None = None, beyond: Beyond = "censor") -> dict[str, Tensor]:
        """Tensors of the given rows, of all without any: what models, losses and streams take.

        Returns:
            x [B,T,D] and u [B,T,U] float32, mask [B,T,D] bool, length [B] int64, static [B,G] float32, and a column an
            event: slot [B,E] int64 from 1 on, observed and at_risk [B,E] bool, tail [B,E] int64 (see `to_slots`).
        """
        index = np.arange(len(self)) if rows is None else _index(rows)
        times, seen = self.time_hours[index], self.observed[index]
        slots = [to_slots(times[:, e], seen[:, e], spec, beyond) for e, spec in enumerate(self.events)]
        slot, observed, tail = (np.stack(columns, axis=1) for columns in zip(*slots, strict=True))
        arrays = {name: getattr(self, name)[index] for name in ("x", "mask", "u", "length", "static", "at_risk")}
        arrays |= {"slot": slot, "observed": observed, "tail": tail}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def split(self) -> dict[str, NDArray[np.int64]]:
        """Rows of "train", "valid" and "test": by `parts` where given, else 60/20/20 by SHA-256 of the patient's id."""
        return rows_of_parts(self.ids, self.parts)


def _flags(name: str, values: Any) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        row = int(np.argwhere(~np.isin(array, (0, 1)))[0][0])
        raise ValueError(f"{name}: got values other than 0 and 1 (row {row}), need booleans")
    return array.astype(bool)


def _check_times(times: NDArray[np.float64], names: tuple[str, ...]) -> None:
    bad = ~(np.isfinite(times) & (times >= 0))
    if bad.any():
        row, event = np.argwhere(bad)[0]
        raise ValueError(f"time_hours must be finite and ≥ 0 (row {row}, event {names[event]!r})")


def _index(rows: ArrayLike) -> NDArray[np.int64]:
    index = np.asarray(rows)
    return np.flatnonzero(index) if index.dtype == bool else np.atleast_1d(index).astype(np.int64)
