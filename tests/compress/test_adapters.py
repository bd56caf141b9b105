"""A bank of adapters on one frozen base: the base never changes, rows of a batch have their own, nothing is switched midway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tenfold.compress.adapters import AdapterBank
from tenfold.compress.palettize import PaletteConfig, materialize, palettize
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.generate import generate
from tenfold.nn import lora

CFG = DecoderConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48, max_len=32)
IDS = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))


def base() -> Decoder:
    return palettize(Decoder(CFG, torch.Generator().manual_seed(0)).eval(), PaletteConfig(bins=256))


def shake(bank: AdapterBank, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in bank.parameters(name):
        weight.data.normal_(std=0.1, generator=generator)


@pytest.fixture
def bank() -> AdapterBank:
    """Adapters "a" and "b", of ranks 4 and 2; none works."""
    bank = AdapterBank(base()).add("a", 4).add("b", 2, alpha=6)
    shake(bank, "a", 2)
    shake(bank, "b", 3)
    return bank.use(None)


def test_on_off_on_leaves_the_base_as_it_was(bank: AdapterBank) -> None:
    before = {name: tensor.clone() for name, tensor in bank.model.state_dict().items()}
    plain = base()(IDS)
    assert torch.equal(bank.model(IDS), plain) and bank.active is None
    first = bank.use("a").model(IDS)
    assert bank.active == "a" and not torch.equal(first, plain)
    assert not torch.equal(bank.use("b").model(IDS), first)
    assert torch.equal(bank.use(None).model(IDS), plain)
    assert torch.equal(bank.use("a").model(IDS), first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bank.model.state_dict().items())


def test_a_batch_of_different_adapters_is_each_row_with_its_own(bank: AdapterBank) -> None:
    alone = {name: bank.use(name).model(IDS) for name in ("a", "b", None)}
    bank.use("b")
    for rows in (["a", None, "b"], ["b", "b", "a"], [None, None, None], ["a", "a", "a"]):
        with bank.using(rows) as model:
            together = model(IDS)
        for row, name in enumerate(rows):
            torch.testing.assert_close(together[row], alone[name][row], rtol=1e-5, atol=1e-5)
    for name in ("a", None):
        with bank.using(name) as model:
            assert torch.equal(model(IDS), alone[name])
    assert bank.active == "b"


def test_nothing_is_switched_while_a_batch_runs(bank: AdapterBank, tmp_path: Path) -> None:
    bank.save("a", tmp_path)
    refused: list[Callable[[], object]] = [
        lambda: bank.use("b"),
        lambda: bank.use(None),
        lambda: bank.remove("b"),
        lambda: bank.add("c", 2),
        lambda: bank.load("c", tmp_path),
        lambda: bank.using("b").__enter__(),
    ]
    with bank.using("a") as model:
        tokens = generate(model, [[3, 4]], max_new_tokens=4, temperature=0).ids
        for call in refused:
            with pytest.raises(ValueError, match="a batch is running"):
                call()
        assert generate(model, [[3, 4]], max_new_tokens=4, temperature=0).ids == tokens
    with pytest.raises(RuntimeError), bank.using("a"):
        raise RuntimeError
    bank.use("b")  # free again


def test_a_task_adapter_starts_from_another_and_goes_its_own_way(bank: AdapterBank) -> None:
    recovered = bank.use("a").model(IDS)
    assert torch.equal(bank.copy("a", "task").use("task").model(IDS), recovered)
    assert bank.names == ["a", "b", "task"]
    optimizer = torch.optim.SGD(bank.parameters("task"), lr=1.0)
    bank.model(IDS).square().mean().backward()
    assert all(weight.grad is None for weight in bank.parameters("a"))
    optimizer.step()
    assert not torch.equal(bank.model(IDS), recovered)
    assert torch.equal(bank.use("a").model(IDS), recovered)


def test_files(bank: AdapterBank, tmp_path: Path) -> None:
    expected = bank.use("b").model(IDS)
    bank.save("b", tmp_path)
    fresh = AdapterBank(base())
    assert fresh.load("summaries", tmp_path).active is None
    assert torch.equal(fresh.model(IDS), base()(IDS))
    assert torch.equal(fresh.use("summaries").model(IDS), expected)
    fresh.remove("summaries")
    assert fresh.names == [] and torch.equal(fresh.model(IDS), base()(IDS))
    fresh.load("summaries", tmp_path)


def test_memory_is_that_of_the_adapters(bank: AdapterBank) -> None:
    held = sum(t.numel() * t.element_size() for t in bank.model.state_dict().values())
    plain = sum(t.numel() * t.element_size() for t in base().state_dict().values())
    assert held - plain == bank.num_bytes("a") + bank.num_bytes("b")
    assert bank.num_bytes("a") == 2 * bank.num_bytes("b")


def test_merged_into_the_dense_model(bank: AdapterBank) -> None:
    expected = bank.use("a").model(IDS)
    with pytest.raises(ValueError, match="is PaletteLinear, need plain linear layers"):
        lora.merge(bank.model, "a")
    torch.testing.assert_close(lora.merge(materialize(bank.model), "a")(IDS), expected, rtol=1e-5, atol=1e-5)


def test_unknown_names(bank: AdapterBank) -> None:
    for call in (lambda: bank.use("x"), lambda: bank.using(["a", "x", None]).__enter__(), lambda: bank.copy("x", "y")):
        with pytest.raises(ValueError, match="adapter: got 'x', need one of"):
            call()
    with pytest.raises(ValueError, match="name: got 'a'"):
        bank.copy("b", "a")
    with pytest.raises(ValueError, match="adapter: got 'x', need one of none"), AdapterBank(base()).using("x"):
        pass
    with AdapterBank(base()).using([None, None]) as model:
        model(IDS)
