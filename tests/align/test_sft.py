"""Supervised fine-tuning: columns, masks, batches that pack and resume, the loss and its errors."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tenfold.align.samples import Sample, pad
from tenfold.align.sft import sft_batches, sft_loss, sft_sample, sft_samples
from tenfold.core.errors import UserError
from tenfold.core.stream import ArrayStream, Batcher, Mixture
from tenfold.nn.moe import MoEConfig, collect_aux
from tenfold.text.tokenizer import Tokenizer

CHAT = [{"role": "user", "content": "one and two?"}, {"role": "assistant", "content": "three"}]


def learned(tokenizer: Tokenizer, sample: Sample) -> str:
    return tokenizer.decode([id for id, on in zip(sample.ids, sample.learned, strict=True) if on])


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"prompt": "one and two?", "completion": "three"},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
        {"prompt": CHAT[:1], "completion": "three"},
    ],
)
def test_every_form_of_a_row_is_the_same_sample(tokenizer: Tokenizer, row: dict) -> None:
    sample = sft_sample(row, tokenizer)
    assert sample == sft_sample({"messages": CHAT}, tokenizer)
    assert tokenizer.decode(sample.ids) == "<s><|user|>one and two?<|end|><|assistant|>three<|end|>"
    assert learned(tokenizer, sample) == "three<|end|>"


def test_turns_of_a_prompt_and_of_weight_0_are_not_learned(tokenizer: Tokenizer) -> None:
    more = [{"role": "user", "content": "yes?"}, {"role": "assistant", "content": "no"}]
    assert learned(tokenizer, sft_sample({"messages": CHAT + more}, tokenizer)) == "three<|end|>no<|end|>"
    assert learned(tokenizer, sft_sample({"prompt": CHAT + more[:1], "completion": more[1:]}, tokenizer)) == "no<|end|>"
    weighed = [CHAT[0], {**CHAT[1], "weight": 0}, more[0], {**more[1], "weight": 1}]
    assert learned(tokenizer, sft_sample({"messages": weighed}, tokenizer)) == "no<|end|>"


def test_plain_texts_are_joined_token_by_token(tokenizer: Tokenizer) -> None:
    sample = sft_sample({"prompt": "one and", "completion": " two"}, tokenizer, plain=True)
    assert list(sample.ids) == [*tokenizer.encode("one and"), *tokenizer.encode(" two"), tokenizer.eos_id]
    assert learned(tokenizer, sample) == " two</s>"


def test_files_are_read_and_cut(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"messages": CHAT}, {"prompt": "yes?", "completion": "no " * 40}]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    first, second = sft_samples(path, tokenizer, 24)
    assert [first, second] == sft_samples(rows, tokenizer, 24)
    assert first == sft_sample(rows[0], tokenizer)
    assert len(second.ids) == 24
    assert not learned(tokenizer, second).endswith("<|end|>")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: got none"),
        ([{"text": "a"}], "row 0: got text, need messages, or prompt and completion"),
        ([{"messages": CHAT}, {"messages": CHAT[:1]}], "row 1: messages: got no assistant turn"),
        ([{"messages": [CHAT[0], {**CHAT[1], "weight": 0}]}], "row 0: messages: got no assistant turn"),
        ([{"messages": [{"role": "user", "content": 3}]}], r"row 0: messages\[0\]: content: got int"),
        (
            [{"prompt": "why " * 90, "completion": "so"}],
            r"row 0: none of its \d+ tokens to learn is among the first 64",
        ),
        ([{"prompt": 3, "completion": "so"}], "row 0: prompt: got int, need a list of messages"),
    ],
)
def test_rows_that_teach_nothing(tokenizer: Tokenizer, rows: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sft_samples(rows, tokenizer, 64)


def test_bad_files_and_plain_rows(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows not found: .*none\.jsonl"):
        sft_samples(tmp_path / "none.jsonl", tokenizer, 64)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": CHAT[:1]}))
    with pytest.raises(UserError, match=r"rows\.jsonl:1: messages: got no assistant turn"):
        sft_samples(path, tokenizer, 64)
    for row in (
        {"prompt": "", "completion": "a"},
        {"prompt": "a", "completion": " "},
        {"prompt": "a", "completion": 3},
    ):
        with pytest.raises(UserError, match="row 0: prompt, completion: need two texts"):
            sft_samples([row], tokenizer, 64, plain=True)
    with pytest.raises(UserError, match="no end-of-text token"):
        sft_samples([{"prompt": "a", "completion": "b"}], Tokenizer(tokenizer.backend), 64, plain=True)


def test_the_loss_is_cross_entropy_of_the_learned_tokens(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    model, rows = decoder(), samples(5)
    batch = pad(rows)
    loss, metrics = sft_loss(model, batch)
    logits, targets = model(batch["ids"]), batch["targets"]
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(metrics["ce"], expected.detach())
    assert metrics["weight"] == sum(row.targets for row in rows)
    for mine, theirs in zip(*(torch.autograd.grad(x, list(model.parameters())) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_what_is_not_learned_does_not_matter(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    """The token behind the last learned one, whatever it is, leaves the loss exactly as it was."""
    model = decoder()
    losses = {
        float(
            sft_loss(model, pad([Sample((*row.ids, token), (*row.learned, False)) for row in samples(4)]))[0].detach()
        )
        for token in (9, 10, 299)
    }
    assert len(losses) == 1


def test_packed_rows_have_the_loss_of_padded_ones(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    model, whole = decoder(), ArrayStream(samples(12), epochs=1)
    loss, metrics = sft_loss(model, pad(samples(12)))
    batches = list(sft_batches(whole, 24, 4))
    assert batches[0]["segments"].max() > 1
    parts = [sft_loss(model, batch) for batch in batches]
    weight = sum(part["weight"] for _, part in parts)
    assert weight == metrics["weight"]
    torch.testing.assert_close(sum(part * own["weight"] for part, own in parts) / weight, loss, rtol=1e-10, atol=0)


@pytest.mark.parametrize("packed", [True, False])
def test_a_pass_has_every_target_once_and_resumes(samples, packed: bool) -> None:  # type: ignore[no-untyped-def]
    rows = samples(20)

    def stream() -> Batcher:
        return sft_batches(ArrayStream(rows, seed=5, epochs=1), 16, 2, packed=packed)

    batches = list(stream())
    learned = [int(id) for batch in batches for id in batch["targets"][batch["targets"] != -100]]
    assert sorted(learned) == sorted(id for row in rows for id, on in zip(row.ids, row.learned, strict=True) if on)
    stopped, resumed = stream(), stream()
    list(itertools.islice(stopped, 3))
    resumed.load_state_dict(stopped.state_dict())
    rest = list(resumed)
    assert len(rest) == len(batches) - 3
    for batch, expected in zip(rest, batches[3:], strict=True):
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_mixture_of_sources_is_a_source(samples) -> None:  # type: ignore[no-untyped-def]
    low, high = samples(9, vocabulary=100), [Sample.of([200], [201, 202])] * 3
    batch = next(iter(sft_batches(Mixture([low, high], [0.5, 0.5], seed=0), 24, 8)))
    assert {201, 202} <= set(batch["targets"].flatten().tolist())


def test_a_sample_too_long_for_a_row_is_refused(samples) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="got one of 9 tokens, need at most 4"):
        next(iter(sft_batches([Sample.of([1], range(8))], 4, 1)))


def test_experts_add_their_auxiliary_loss(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    model = decoder(moe=MoEConfig(16, 12, num_experts=4, z_weight=1e-3))
    batch = pad(samples(4))
    loss, metrics = sft_loss(model, batch)
    model(batch["ids"], mask=batch["mask"])
    aux, _ = collect_aux(model)
    assert aux.item() > 0
    torch.testing.assert_close(metrics["aux"], aux.detach())
    torch.testing.assert_close(loss.detach(), metrics["ce"] + aux.detach())
