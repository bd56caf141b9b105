"""The reward model: which state it reads, files, scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tenfold.align.preference_data import GRADES
from tenfold.align.reward_model import RewardModel, last_states
from tenfold.align.samples import pad
from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder


@pytest.fixture
def model(decoder) -> RewardModel:  # type: ignore[no-untyped-def]
    return RewardModel(decoder(), torch.Generator().manual_seed(1))


def test_it_reads_the_last_token_that_is_no_padding() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    right = torch.tensor([[True, True, False], [True, True, True]])
    assert last_states(states, right).tolist() == [[2, 3], [10, 11]]
    assert last_states(states, right.flip(1)).tolist() == [[4, 5], [10, 11]]
    with pytest.raises(ValueError, match="row of padding alone"):
        last_states(states, torch.tensor([[True] * 3, [False] * 3]))


def test_padding_on_either_side_does_not_matter(model: RewardModel, samples) -> None:  # type: ignore[no-untyped-def]
    batch = pad(samples(4))
    extra = {"ids": torch.full((4, 9), 5), "targets": torch.full((4, 9), -100), "mask": torch.zeros(4, 9).bool()}
    judged = model(batch)
    assert judged.score_B.shape == (4,)
    assert judged.grades_BG3.shape == (4, len(GRADES), 3)
    for parts in ((extra, batch), (batch, extra)):
        wide = model({name: torch.cat([part[name] for part in parts], dim=1) for name in batch})
        torch.testing.assert_close(wide.score_B, judged.score_B, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(wide.grades_BG3, judged.grades_BG3, rtol=1e-9, atol=1e-9)


def test_the_response_matters_to_its_last_token(model: RewardModel, samples) -> None:  # type: ignore[no-untyped-def]
    batch = pad(samples(4))
    before = model(batch).score_B
    last = batch["mask"].sum(1) - 1
    batch["ids"][range(4), last] += 1
    assert (model(batch).score_B != before).all()


def test_scores_do_not_depend_on_the_batch(model: RewardModel, samples) -> None:  # type: ignore[no-untyped-def]
    rows = samples(7)
    alone = [model(pad([row])).score_B.item() for row in rows]
    assert model.scores(rows, batch_tokens=16) == pytest.approx(alone, rel=1e-9)
    assert model.scores(rows) == pytest.approx(alone, rel=1e-9)


def test_saved_and_read_again_it_is_the_same(model: RewardModel, samples, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model.save_pretrained(tmp_path)
    read = RewardModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), read.state_dict().values(), strict=True))
    assert read.scores(samples(3)) == model.scores(samples(3))
    assert isinstance(Decoder.from_pretrained(tmp_path), Decoder)


def test_folders_that_hold_no_reward_model(model: RewardModel, decoder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    decoder().save_pretrained(tmp_path / "plain")
    with pytest.raises(UserError, match="is a language model, not a reward model"):
        RewardModel.from_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path)
    config = tmp_path / "reward" / "config.json"
    config.write_text(json.dumps({"grades": ["wit"], "dim": 16}))
    with pytest.raises(UserError, match=r"config\.json: got .*wit.*, need grades"):
        RewardModel.from_pretrained(tmp_path)
    RewardModel(decoder(tie_embeddings=False)).save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "reward" / "model.safetensors"
    tensors = load_file(path)
    tensors["score.weight"] = tensors["score.weight"][:, :3].contiguous()
    tensors["odd"] = tensors.pop("grades.if.up.bias")
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"another shape: grades\.if\.up\.bias, odd, score\.weight"):
        RewardModel.from_pretrained(tmp_path)
