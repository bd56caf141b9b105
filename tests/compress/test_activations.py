"""Eight bits on the way: steps by hand, gradients, and a cache beside the full one."""

from __future__ import annotations

import pytest
import torch

from tenfold.compress.activations import Int8KVCache, round_activations, to_int8
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.kv_cache import KVCache

CFG = DecoderConfig(50, 32, 2, 4, 2, 8, 48, max_len=16)
IDS = torch.randint(0, 50, (3, 10), generator=torch.Generator().manual_seed(1))


def test_gold() -> None:
    codes, step = to_int8(torch.tensor([[1.27, -0.634, 0.0], [0.0, 0.0, 0.0], [-254.0, 3.0, 1.0]]))
    assert codes.tolist() == [[127, -63, 0], [0, 0, 0], [-127, 2, 0]] and codes.dtype == torch.int8
    torch.testing.assert_close(step, torch.tensor([[0.01], [0.0], [2.0]]))


def test_error_is_at_most_half_a_step_of_its_own_row() -> None:
    x = torch.randn(4, 6, 20, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 6).unsqueeze(1)
    rounded = round_activations(x)
    assert ((rounded - x).abs() <= 0.5001 * x.abs().amax(-1, keepdim=True) / 127).all()
    assert not torch.equal(rounded, x)
    torch.testing.assert_close(round_activations(rounded), rounded)


def test_the_gradient_passes_whole() -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upstream = torch.randn(3, 5)
    y = round_activations(x)
    torch.testing.assert_close(y, round_activations(x.detach()))
    y.backward(upstream)
    assert torch.equal(x.grad, upstream)


def test_cache_in_bytes_is_close_to_the_full_one_and_a_quarter_of_it() -> None:
    model = Decoder(CFG, torch.Generator().manual_seed(0)).eval()
    full, small = KVCache(CFG, 3, 16), Int8KVCache(CFG, 3, 16)
    with torch.inference_mode():
        for piece in (IDS[:, :6], IDS[:, 6:7], IDS[:, 7:]):
            exact, rounded = model(piece, cache=full), model(piece, cache=small)
            assert (rounded - exact).abs().max() < 0.05 * exact.std()
            assert not torch.equal(rounded, exact)
    assert small.longest == 10 and small.lengths.tolist() == [10, 10, 10]
    held = small._layers[0].k
    assert held.dtype == torch.int8 and held.shape == (3, 2, 16, 8)


def test_rows_of_the_cache_leave_and_shorten_as_in_the_full_one() -> None:
    model = Decoder(CFG, torch.Generator().manual_seed(0)).eval()
    cache = Int8KVCache(CFG, 3, 16)
    with torch.inference_mode():
        model(IDS, cache=cache)
        cache.set_lengths([10, 4, 7])
        cache.keep_rows([2, 0])
        both = model(IDS[:2, :1], cache=cache)
        for row, (source, length) in enumerate(((2, 7), (0, 10))):
            alone = Int8KVCache(CFG, 1, 16)
            model(IDS[source : source + 1, :length], cache=alone)
            torch.testing.assert_close(both[row : row + 1], model(IDS[row : row + 1, :1], cache=alone))


def test_a_full_cache_refuses() -> None:
    model = Decoder(CFG, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="it holds at most 8"):
        model(IDS, cache=Int8KVCache(CFG, 3, 8))
