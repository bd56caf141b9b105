"""DPO, IPO, reward and policy losses against trl's trainers: same weights, same rows, values and gradients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer

from tenfold.align.chat_samples import chat_sample
from tenfold.align.logprobs import sequence_logprobs
from tenfold.align.policy_gradient import leave_one_out, mdloo_loss, policy_batch
from tenfold.align.preference_data import LEVELS, collate_pairs, encode_preferences, read_preferences
from tenfold.align.preference_losses import dpo_loss, ipo_loss
from tenfold.align.reward_losses import MARGINS, reward_loss
from tenfold.align.reward_model import RewardModel
from tenfold.align.samples import Sample
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

ROWS = [
    {"prompt": "one and two?", "chosen": "three", "rejected": "the sum of one and two", "level": "significantly"},
    {"prompt": "what is the sum", "chosen": "the answer is three", "rejected": "no", "level": "slightly"},
    {"prompt": "yes?", "chosen": "no", "rejected": "", "level": "negligibly"},
]
CONVERSATIONS = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
        "margin": MARGINS[LEVELS.index(row["level"])],  # type: ignore[arg-type]
    }
    for row in ROWS
]


class Peer:
    """Two random decoders and a tokenizer, here and as folders that transformers opens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: Tokenizer = train_tokenizer(["what is the sum of one and two? the answer is three"] * 20, 330)
        self.tokenizer.save(folder)
        cfg = DecoderConfig(self.tokenizer.vocab_size, 16, 2, 2, 1, 8, 24, max_len=96)
        self.policy, self.reference = (Decoder(cfg, torch.Generator().manual_seed(seed)) for seed in (0, 1))
        self.policy.save_pretrained(folder / "policy")
        self.reference.save_pretrained(folder / "reference")
        self.batch = collate_pairs(encode_preferences(read_preferences(ROWS), self.tokenizer, 64))

    def theirs(self, name: str, kind: Any = AutoModelForCausalLM, **options: Any) -> Any:
        return kind.from_pretrained(self.folder / name, dtype=torch.float32, **options)

    def settings(self) -> dict[str, Any]:
        size = {"per_device_train_batch_size": len(ROWS), "gradient_accumulation_steps": 1}
        return {"output_dir": str(self.folder / "out"), "report_to": "none", "use_cpu": True, "bf16": False, **size}

    def hf_tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    return Peer(tmp_path_factory.mktemp("peer"))


def in_order(trainer: Any) -> Any:
    """The whole data set as one batch, unshuffled."""
    return trainer.data_collator([trainer.train_dataset[i] for i in range(len(ROWS))])


def agree(mine: Tensor, model: nn.Module, theirs: Tensor, other: nn.Module, prefix: str = "") -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    model.zero_grad()
    mine.backward()
    theirs.backward()
    known = {name.removeprefix("model."): weight.grad for name, weight in other.named_parameters()}
    names = {name: weight.grad for name, weight in model.named_parameters() if name.startswith(prefix)}
    assert names
    for name, gradient in names.items():
        expected = known[name.removeprefix(prefix)]
        torch.testing.assert_close(
            gradient, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_dpo_and_ipo(peer: Peer, kind: str) -> None:
    trainer = DPOTrainer(
        model=peer.theirs("policy"),
        ref_model=peer.theirs("reference"),
        args=DPOConfig(beta=0.3, loss_type=[kind], **peer.settings()),
        train_dataset=Dataset.from_list(CONVERSATIONS),
        processing_class=peer.hf_tokenizer(),
    )
    theirs = in_order(trainer)
    assert torch.equal(theirs["input_ids"], peer.batch["ids"])
    assert torch.equal(theirs["completion_mask"][:, 1:].bool(), peer.batch["targets"][:, :-1] != -100)
    make = dpo_loss if kind == "sigmoid" else lambda beta, **more: ipo_loss(beta, per_token=True, **more)
    value, metrics = make(0.3, reference=peer.reference)(peer.policy, peer.batch)
    agree(value, peer.policy, trainer.compute_loss(trainer.model, theirs), trainer.model)
    logged = trainer._metrics["eval"]  # transformers opens models in evaluation mode
    assert metrics["accuracy"].item() == pytest.approx(logged["rewards/accuracies"][0])
    if kind == "sigmoid":  # with IPO theirs logs sums where it learns from means
        assert metrics["margin"].item() == pytest.approx(logged["rewards/margins"][0], abs=1e-5)


@pytest.mark.parametrize("ranking", ["bradley_terry", "margin"])
def test_reward_model(peer: Peer, ranking: Any) -> None:
    other = peer.theirs("policy", AutoModelForSequenceClassification, num_labels=1, pad_token_id=peer.tokenizer.pad_id)
    mine = RewardModel(Decoder.from_pretrained(peer.folder / "policy"), torch.Generator().manual_seed(2))
    with torch.no_grad():
        other.score.weight.copy_(mine.score.weight)
    rows = [{key: row[key] for key in row if ranking == "margin" or key != "margin"} for row in CONVERSATIONS]
    trainer = RewardTrainer(
        model=other,
        args=RewardConfig(**peer.settings()),
        train_dataset=Dataset.from_list(rows),
        processing_class=peer.hf_tokenizer(),
    )
    theirs = in_order(trainer)
    assert torch.equal(theirs["input_ids"], peer.batch["ids"])
    value, _ = reward_loss(ranking=ranking)(mine, peer.batch)
    loss = trainer.compute_loss(other, theirs)
    agree(value, mine, loss, other, "backbone.")
    torch.testing.assert_close(mine.score.weight.grad, other.score.weight.grad, rtol=1e-4, atol=1e-5)


def test_policy_gradient_with_a_clip(peer: Peer) -> None:
    """Some steps from the sampling policy, so that ratios differ from 1 and the clip acts."""
    texts = ["three", "no", "the sum", "one and two"]
    asked = Message("user", "one and two?")
    samples = [chat_sample(peer.tokenizer, [asked, Message("assistant", text)]) for text in texts]
    rewards = torch.tensor([[1.0, 0.0], [0.25, 0.0]])
    made = policy_batch(peer.reference, samples, rewards, beta=0.0, keep_states=False)
    torch.testing.assert_close(made.batch["advantage"], leave_one_out(rewards).flatten())
    made.batch["old_logprob"] = sequence_logprobs(peer.policy, made.batch)[0].detach() - torch.tensor(
        [0.3, 0.1, 0.0, -0.4]
    )
    trainer = RLOOTrainer(
        model=peer.theirs("policy"),
        reward_funcs=lambda completions, **more: [0.0] * len(completions),
        args=RLOOConfig(
            num_generations=2, beta=0.0, epsilon=0.2, **{**peer.settings(), "per_device_train_batch_size": 2}
        ),
        train_dataset=Dataset.from_list([{"prompt": "one"}] * 2),
        processing_class=peer.hf_tokenizer(),
    )
    value, metrics = mdloo_loss(trust="clip", clip=0.2)(peer.policy, made.batch)
    assert metrics["clipped"] > 0
    loss = trainer._compute_loss(trainer.model, _as_trl(samples, made.batch, peer.tokenizer.pad_id or 0))
    agree(value, peer.policy, loss, trainer.model)


def _as_trl(samples: list[Sample], batch: dict[str, Tensor], padding: int) -> dict[str, Tensor]:
    """Prompts padded on the left, completions on the right."""
    parts = [
        [[id for id, on in zip(sample.ids, sample.learned, strict=True) if on == side] for sample in samples]
        for side in (False, True)
    ]
    width = [max(map(len, part)) for part in parts]
    left = [[padding] * (width[0] - len(row)) + row for row in parts[0]]
    right = [row + [padding] * (width[1] - len(row)) for row in parts[1]]
    return {
        "prompt_ids": torch.tensor(left),
        "prompt_mask": torch.tensor([[0] * (width[0] - len(row)) + [1] * len(row) for row in parts[0]]),
        "completion_ids": torch.tensor(right),
        "completion_mask": torch.tensor([[1] * len(row) + [0] * (width[1] - len(row)) for row in parts[1]]),
        "old_logps": batch["old_logprob"],
        "advantages": batch["advantage"],
    }
