"""What a run answers for: measured figures, each beside its baseline of the same run and the paper's figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Claim:
    """One measured figure beside its baseline, both from the same run.

    Args:
        name: what is claimed, short; unique in its run.
        value: the measured figure, in the unit that `name` or `how` says.
        baseline: what it is compared with, same unit.
        better: the direction in which `value` should differ from `baseline`.
        ci95: 95 % interval of the paired difference value - baseline. With one seed there is none: (nan, nan).
        seeds: number of seeds behind the figure, at least 1.
        how: how it was measured, one line.
        paper: the paper's figure as text with its conditions; None where it gives none.
        simulator: True where the figure comes from simulated data or hardware.
    """

    name: str
    value: float
    baseline: float
    better: Literal["higher", "lower"]
    ci95: tuple[float, float]
    seeds: int
    how: str
    paper: str | None = None
    simulator: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: got an empty string, need a name")
        if self.better not in ("higher", "lower"):
            raise ValueError(f"better: got {self.better!r}, need 'higher' or 'lower'")
        if self.seeds < 1:
            raise ValueError(f"seeds: got {self.seeds}, need at least 1")
        for field in ("value", "baseline"):
            if not math.isfinite(getattr(self, field)):
                raise ValueError(f"{field}: got {getattr(self, field)}, need a finite number (claim {self.name!r})")
        low, high = self.ci95
        if self.seeds > 1 and not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"ci95: got ({low}, {high}), need finite low <= high (claim {self.name!r})")

    @property
    def margin(self) -> float:
        """value - baseline."""
        return self.value - self.baseline

    @property
    def ahead(self) -> bool:
        """Whether the figure itself is on the better side of its baseline, whatever the interval says."""
        return self.margin > 0 if self.better == "higher" else self.margin < 0

    @property
    def holds(self) -> bool | None:
        """Whether the whole interval lies on the better side of zero; None where one seed was run."""
        if self.seeds == 1:
            return None
        low, high = self.ci95
        return low > 0 if self.better == "higher" else high < 0

    @property
    def verdict(self) -> str:
        """`holds` in words; where the whole interval lies on the worse side, these say so."""
        if self.holds is None:
            return "one seed"
        if self.holds:
            return "holds"
        low, high = self.ci95
        opposite = high < 0 if self.better == "higher" else low > 0
        return "the opposite holds" if opposite else "does not hold"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": float(self.value),
            "baseline": float(self.baseline),
            "margin": float(self.margin),
            "better": self.better,
            "ci95": None if self.seeds == 1 else [float(bound) for bound in self.ci95],
            "paper": self.paper,
            "holds": self.holds,
            "how": self.how,
            "seeds": self.seeds,
            "simulator": self.simulator,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Claim:
        """Read back what `to_json` wrote; `margin` and `holds` are computed again, never read."""
        interval = data["ci95"]
        return cls(
            name=data["name"],
            value=data["value"],
            baseline=data["baseline"],
            better=data["better"],
            ci95=(math.nan, math.nan) if interval is None else (interval[0], interval[1]),
            seeds=data["seeds"],
            how=data["how"],
            paper=data["paper"],
            simulator=data["simulator"],
        )


@dataclass(frozen=True)
class Result:
    """The outcome of a finished run, as kept in its `result.json`.

    Args:
        recipe, preset: what was run.
        seed: the seed or seeds of the config; None where the config names none.
        versions: package name to version.
        seconds: working time, summed over resumes.
        claims: in the order in which the recipe made them.
    """

    recipe: str
    preset: str
    seed: int | tuple[int, ...] | None
    versions: Mapping[str, str]
    seconds: float
    claims: tuple[Claim, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "preset": self.preset,
            "seed": list(self.seed) if isinstance(self.seed, tuple) else self.seed,
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "claims": [claim.to_json() for claim in self.claims],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        seed = data["seed"]
        return cls(
            recipe=data["recipe"],
            preset=data["preset"],
            seed=tuple(seed) if isinstance(seed, list) else seed,
            versions=data["versions"],
            seconds=data["seconds"],
            claims=tuple(Claim.from_json(claim) for claim in data["claims"]),
        )
