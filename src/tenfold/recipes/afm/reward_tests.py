"""A reward model on pairs whose better response is known."""

from __future__ import annotations

from collections.abc import Sequence

from tenfold.align.preference_data import Pair
from tenfold.align.reward_calibration import RewardReport, reward_report
from tenfold.align.reward_model import RewardModel


def judged(model: RewardModel, pairs: Sequence[Pair]) -> RewardReport:
    """A reward model on held-out pairs."""
    chosen, rejected = model.scores([pair.chosen for pair in pairs]), model.scores([pair.rejected for pair in pairs])
    return reward_report(chosen, rejected, [pair.level for pair in pairs])
