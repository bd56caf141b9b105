"""A reward model: a decoder that reads a conversation to its end and says how good it is, and in what respect."""

# Shape legend: B batch, S sequence, D model width, G grades

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.align.logprobs import batches_by_length, hidden_states
from tenfold.align.preference_data import GRADES
from tenfold.align.samples import Batch, Sample, pad
from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import listed, read_tensors, whole_state, write_folder
from tenfold.lm.decoder import Decoder
from tenfold.lm.loglikelihood import scoring_mode
from tenfold.nn.linear import Linear, init_generator

LEVELS_OF_A_GRADE = 3


@dataclass(frozen=True)
class Judgement:
    """What a reward model says of each row.

    Attributes:
        score_B: the reward, without a unit and without a zero; differences of one prompt's responses count.
        grades_BG3: logits of the three grades in each respect of `GRADES`.
    """

    score_B: Tensor
    grades_BG3: Tensor


class GradeHead(nn.Module):
    """D -> D -> 3: an MLP that classifies a conversation into three grades."""

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.up = Linear(dim, dim, bias=True, generator=generator)
        self.down = Linear(dim, LEVELS_OF_A_GRADE, bias=True, generator=generator)

    def forward(self, state_BD: Tensor) -> Tensor:
        """Logits (B, 3)."""
        return self.down(F.silu(self.up(state_BD)))


class RewardModel(nn.Module):
    """A decoder whose last state of a conversation is read by a linear scalar head and by one grade head a respect.

    Args:
        backbone: the decoder; it learns too. Its output layer is not used.
        generator: where the heads' weights are drawn from (see `init_generator`).
    Source: Gunter et al. 2024, arXiv 2407.21075, reward modelling.
    """

    def __init__(self, backbone: Decoder, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = init_generator(generator)
        weight = backbone.embed_tokens.weight
        self.backbone = backbone
        self.score = Linear(backbone.cfg.dim, 1, generator=generator)
        self.grades = nn.ModuleDict({name: GradeHead(backbone.cfg.dim, generator) for name in GRADES})
        self.score.to(weight)
        self.grades.to(weight)

    def forward(self, batch: Batch) -> Judgement:
        """Judge whole conversations.

        Args:
            batch: "ids", int64 (B, S), and "mask", bool (B, S), False at padding, on either side.
        """
        state_BD = last_states(hidden_states(self.backbone, batch), batch["mask"])
        grades_BG3 = torch.stack([self.grades[name](state_BD) for name in GRADES], dim=1)
        return Judgement(self.score(state_BD).squeeze(-1), grades_BG3)

    @torch.no_grad()
    def scores(self, samples: Sequence[Sample], *, batch_tokens: int = 8192) -> list[float]:
        """The reward of every conversation, in evaluation mode.

        Args:
            samples: whole conversations, the response last.
            batch_tokens: tokens of a batch, padding included; no effect on the result.
        """
        device = self.score.weight.device
        found = [0.0] * len(samples)
        with scoring_mode(self):
            for index in batches_by_length(samples, batch_tokens):
                batch = {name: value.to(device) for name, value in pad([samples[i] for i in index]).items()}
                for i, value in zip(index, self(batch).score_B.tolist(), strict=True):
                    found[i] = value
        return found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the backbone as Hugging Face lays it out, and the heads below `reward/`."""
        folder = Path(folder)
        heads = {name: value for name, value in whole_state(self).items() if not name.startswith("backbone.")}
        write_folder(folder / "reward", {"grades": list(GRADES), "dim": self.backbone.cfg.dim}, heads)
        self.backbone.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype | None = None) -> RewardModel:
        """Read what `save_pretrained` wrote.

        Raises:
            UserError: missing files, heads of another width or for other grades.
        """
        folder = Path(folder)
        backbone = Decoder.from_pretrained(folder, dtype=dtype)
        where = folder / "reward" / "config.json"
        if not where.is_file():
            raise UserError(f"reward heads not found: {where}; {folder} is a language model, not a reward model")
        config = read_object(where)
        if config.get("grades") != list(GRADES) or config.get("dim") != backbone.cfg.dim:
            raise UserError(f"{where}: got {config}, need grades {list(GRADES)} and dim {backbone.cfg.dim}")
        model = cls(backbone, torch.Generator().manual_seed(0))
        heads = {name: value.shape for name, value in model.state_dict().items() if not name.startswith("backbone.")}
        tensors = read_tensors(folder / "reward")
        if wrong := {name for name in heads.keys() | tensors.keys() if heads.get(name) != _shape(tensors.get(name))}:
            raise UserError(f"{where.parent}: tensors missing, unknown or of another shape: {listed(sorted(wrong))}")
        model.load_state_dict(tensors, strict=False)
        return model


def last_states(states_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """The state of every row's last token that is no padding, (B, D).

    Raises:
        ValueError: a row of padding alone.
    """
    if not bool(mask_BS.any(1).all()):
        raise ValueError("mask: got a row of padding alone, need at least one token in each")
    last_B = mask_BS.shape[1] - 1 - mask_BS.flip(1).int().argmax(1)
    return states_BSD[torch.arange(len(last_B), device=last_B.device), last_B]


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape
