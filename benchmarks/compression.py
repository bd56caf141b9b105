"""Palettization beside the package kmeans1d, Lloyd's iteration and dense layers; the size of a palettized file.

python benchmarks/compression.py --threads 1 --out compression.json
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import kmeans1d
import torch
from rows import Row, clock, milliseconds, parser, row, time_of, write
from sklearn.cluster import KMeans

from tenfold.compress.adapters import AdapterBank
from tenfold.compress.compressed_folder import save_palettized
from tenfold.compress.kmeans1d import kmeans_1d, kmeans_1d_binned
from tenfold.compress.palette_linear import PaletteLinear, stored_bits
from tenfold.compress.palettize import PaletteConfig, bits_per_weight, palettize, planned_bits_per_weight, projections
from tenfold.core.timing import interleaved, ratio
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn.linear import Linear

GROUPS, GROUP = 8, 16 * 768  # a group of the paper: 16 rows of a matrix
TINY = DecoderConfig(2048, 128, 4, 4, 2, 32, 352)
MEDIUM = DecoderConfig(4096, 512, 6, 8, 4, 64, 1536)  # its embedding holds a tenth of the weights


def cost(x: torch.Tensor, centroids: torch.Tensor, index: torch.Tensor) -> float:
    return float((x - centroids[index]).double().square().sum())


def cluster_rows(repeats: int) -> list[Row]:
    """One group at a time exactly, eight at a time on a histogram; every cost is compared with theirs."""
    groups = torch.randn(GROUPS, GROUP, generator=torch.Generator().manual_seed(0))
    lists = [group.tolist() for group in groups]
    rows = []
    for k in (16, 4):
        theirs = [kmeans1d.cluster(numbers, k) for numbers in lists]
        least = [cost(x, torch.tensor(c), torch.tensor(i)) for x, (i, c) in zip(groups, theirs, strict=True)]
        exact = [cost(x, *kmeans_1d(x, k)) for x in groups]
        binned = [cost(*each) for each in zip(groups, *kmeans_1d_binned(groups, k), strict=True)]
        extra = max(b / a for a, b in zip(least, binned, strict=True)) - 1
        if max(abs(a / b - 1) for a, b in zip(least, exact, strict=True)) > 1e-6 or extra > 1e-3:
            raise AssertionError("the costs differ")
        calls = {
            "theirs": lambda k=k: [kmeans1d.cluster(numbers, k) for numbers in lists],
            "exact": lambda k=k: [kmeans_1d(x, k) for x in groups],
            "binned": lambda k=k: kmeans_1d_binned(groups, k),
        }
        timings = interleaved(calls, repeats, warmup=1, clock=clock)
        note = f"{milliseconds(timings['exact'])} against {milliseconds(timings['theirs'])} for {GROUPS} groups of 16 x 768"
        rows.append(row(f"{k} centroids, exact: kmeans1d / ours", ratio(timings, "theirs", "exact"), note, 1.0))
        note = f"{milliseconds(timings['binned'])}; cost at most {100 * extra:.3f} % above the least"
        rows.append(row(f"{k} centroids, 4096 bins: kmeans1d / ours", ratio(timings, "theirs", "binned"), note, 10.0))
    return rows


def lloyd_row(repeats: int) -> Row:
    """One group by scikit-learn's k-means with five restarts beside the exact solution: time, and how much more it costs."""
    x = torch.randn(GROUP, generator=torch.Generator().manual_seed(0))
    points = x.double().numpy()[:, None]
    lloyd = KMeans(16, n_init=5, random_state=0)
    more = lloyd.fit(points).inertia_ / cost(x, *kmeans_1d(x, 16)) - 1
    calls = {"lloyd": lambda: lloyd.fit(points), "exact": lambda: kmeans_1d(x, 16)}
    timings = interleaved(calls, repeats, warmup=1, clock=clock)
    note = f"{milliseconds(timings['exact'])} against {milliseconds(timings['lloyd'])}; Lloyd's cost {100 * more:.2f} % above the least"
    return row("16 centroids, exact: five restarts of Lloyd / ours", ratio(timings, "lloyd", "exact"), note)


@torch.inference_mode()
def forward_rows(repeats: int) -> list[Row]:
    """A layer of SmolLM2's shape: the time of a dense product over that with the weights looked up first."""
    dense = Linear(576, 1536, generator=torch.Generator().manual_seed(0))
    small = PaletteLinear.from_linear(dense, bits=4, group=16, axis=0, bins=4096)
    rows = []
    for tokens in (1, 512):
        x = torch.randn(tokens, 576)
        timings = interleaved({"dense": lambda x=x: dense(x), "looked up": lambda x=x: small(x)}, 5 * repeats, warmup=3)
        looked_up, plain = (1e3 * timings[name].median for name in ("looked up", "dense"))
        note = f"{looked_up:.2f} against {plain:.2f} ms; `materialize` gives the dense time back for the memory"
        name = f"4-bit forward, {tokens} token{'s' if tokens > 1 else ''}: dense / looked up"
        rows.append(row(name, ratio(timings, "dense", "looked up"), note))
    return rows


def size_row() -> Row:
    """The file at 3.7 bits a weight, embeddings of 8 bits included, beside the dense one in bfloat16."""
    model = Decoder(MEDIUM, torch.Generator().manual_seed(0))
    names = list(projections(model))
    bits = {name: 2 if i % 8 < 3 else 4 for i, name in enumerate(names)}
    with tempfile.TemporaryDirectory() as folder:
        copy.deepcopy(model).bfloat16().save_pretrained(Path(folder) / "dense")
        small = palettize(model, PaletteConfig(bins=4096), bits=bits)
        save_palettized(small, Path(folder) / "small")
        sizes = [(Path(folder) / name / "model.safetensors").stat().st_size for name in ("dense", "small")]
    note = f"{sizes[1] / sizes[0]:.3f} of it at {bits_per_weight(small):.2f} bits a weight; bar 1 / 0.27"
    return row("file: bfloat16 / palettized", sizes[0] / sizes[1], note, 1 / 0.27)


def shape_rows() -> list[Row]:
    """Files of the paper's shape and SmolLM2's, computed: as many matrices at 2 bits as bring the rest from 4 to 3.7."""
    small = DecoderConfig(49152, 576, 30, 9, 3, 64, 1536, qk_norm=False)
    rows = []
    for name, cfg, whole, share in (
        ("3B shape at 3.7 bits in all", DecoderConfig(49152, 3072, 26, 24, 8, 128, 8064), True, 0.27),
        ("SmolLM2's shape at 3.7 bits on the projections", small, False, 0.30),
    ):
        with torch.device("meta"):
            model = Decoder(cfg)
        layers, config = projections(model), PaletteConfig()
        bits = dict.fromkeys(layers, 4)
        inner = sum(layer.weight.numel() for layer in layers.values())
        for each in layers:
            stored = sum(stored_bits(*layer.weight.shape, bits[n], 16, 0) for n, layer in layers.items())
            if (planned_bits_per_weight(model, config, bits) if whole else stored / inner) <= 3.7:
                break
            bits[each] = 2
        found = planned_bits_per_weight(model, config, bits) / 16
        note = f"{found:.3f} of it, embedding in bytes; bar 1 / {share}"
        rows.append(row(f"file, computed, {name}: bfloat16 / palettized", 1 / found, note, 1 / share))
    return rows


def swap_row(repeats: int) -> Row:
    """Two adapters of rank 16 on the preset `tiny`: switches in the 5 ms that are allowed."""
    bank = AdapterBank(palettize(Decoder(TINY, torch.Generator().manual_seed(0)), PaletteConfig(bins=4096)))
    bank.add("a").add("b")
    timings = interleaved({"swap": lambda: bank.use("a").use("b")}, 10 * repeats)
    swap = timings["swap"].median / 2
    return row("adapter swap, tiny: 5 ms / ours", 5e-3 / swap, f"{1e3 * swap:.2f} ms", 1.0)


def main() -> None:
    arguments = parser("palettization and adapters", repeats=5).parse_args()
    torch.set_num_threads(arguments.threads)
    repeats = arguments.repeats
    sizes = [size_row(), *shape_rows()]
    rows = [*cluster_rows(repeats), lloyd_row(repeats), *forward_rows(repeats), *sizes, swap_row(repeats)]
    what = f"Clusters of normal numbers; {time_of(arguments.threads)}; layers of 576 x 1536; weights are random."
    write(arguments.out, "Compression", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
