"""Settings of a KG-SSRL experiment."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tenfold.core.config import did_you_mean, from_json, need, need_distinct, need_seeds, to_json
from tenfold.core.errors import UserError
from tenfold.graph.embed import ScorerConfig
from tenfold.recipes.kg_ssrl.published import Base, Settings, settings_of

GraphName = Literal["synthetic", "umls", "kinship", "wn18rr", "fb15k-237", "nell-995", "files"]
Arm = Literal["ssrl", "rl", "sl", "ssrl-shaped", "rl-shaped"]


@dataclass(frozen=True)
class Data:
    """Which triples, and what of them is walked.

    Args:
        path: of graph "files": a folder of train, valid, test; one file of triples (.tsv, .txt, .csv), of RDF (.nt, .ttl) or of a Neo4j
            export; or all CSV files of a Neo4j export. .gz is unpacked.
        order: of the columns in text files.
        name_property: of "files" from Neo4j: what a node is called.
        valid: of "files" without such a split: share of the training triples held out.
        test: as valid.
        inverse: also walk edges backwards.
        max_actions: most edges of an entity that are kept, staying included; None keeps all.
        prune: which are kept: "first" in the file (MINERVA) or those to targets of the highest "pagerank" (MultiHopKG).
        entities: of "synthetic".
        degree: of "synthetic": edges of each of its three base relations that leave an entity.
        seed: of the synthetic graph and of what is held out, the same for all trainings.
    """

    path: tuple[Path, ...] = ()
    order: str = "hrt"
    name_property: str = "name"
    valid: float = 0.05
    test: float = 0.05
    inverse: bool = True
    max_actions: int | None = None
    prune: Literal["first", "pagerank"] = "first"
    entities: int = 300
    degree: float = 1.2
    seed: int = 0

    def __post_init__(self) -> None:
        if sorted(self.order) != ["h", "r", "t"]:
            raise ValueError(f"order: got {self.order!r}, need the letters h, r and t, each once")
        need("max_actions", self.max_actions, 2)
        if self.prune == "pagerank" and self.max_actions is None:
            raise ValueError("prune: got 'pagerank' without max_actions, need how many edges are kept")
        need("entities", self.entities, 10, 1e5)
        need("degree", self.degree, 0, above=True)
        for name in ("valid", "test"):
            need(name, getattr(self, name), 0, 0.5, above=True)
        need("seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True)
class Walker:
    """The policy. None takes the published value of the base policy on that graph.

    Args:
        dim: width d of MINERVA's embeddings (they are 2d wide) or of MultiHopKG's.
        hidden: MINERVA's h, MultiHopKG's width of the history.
        layers: of the LSTM.
        use_entity: embed entities too; MINERVA does not, MultiHopKG does.
        emb_dropout: of MultiHopKG, on embeddings.
        ff_dropout: of MultiHopKG, behind its linear layers.
    """

    dim: int | None = None
    hidden: int | None = None
    layers: int | None = None
    use_entity: bool | None = None
    emb_dropout: float | None = None
    ff_dropout: float | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "hidden", "layers"):
            need(name, getattr(self, name), 1)
        for name in ("emb_dropout", "ff_dropout"):
            need(name, getattr(self, name), 0, 0.99)


@dataclass(frozen=True)
class Training:
    """What both stages share. None takes the published value of the base policy on that graph.

    Args:
        horizon: T, steps of a walk.
        batch: queries a step, over all processes.
        rollouts: K, walks a query.
        lr: Adam's learning rate; each stage begins with a fresh optimizer.
        clip: largest gradient norm; 0 is none.
        queries: train on "tails", or on "both" ends of every triple; the latter asks inverse relations too.
        relations: train only on queries of these relations; none: of all.
        mask_inverse: a walk may not take the inverse of the edge in question either (MultiHopKG); without, as MINERVA.
    """

    horizon: int | None = None
    batch: int | None = None
    rollouts: int = 20
    lr: float | None = None
    clip: float | None = None
    queries: Literal["tails", "both"] = "tails"
    relations: tuple[str, ...] = ()
    mask_inverse: bool = True

    def __post_init__(self) -> None:
        need("horizon", self.horizon, 1, 64)
        for name in ("batch", "rollouts"):
            need(name, getattr(self, name), 1, 1e6)
        need("lr", self.lr, 0, above=True)
        need("clip", self.clip, 0)


@dataclass(frozen=True)
class Supervised:
    """The supervised stage.

    Args:
        labels: "reach": all actions from which the answer can still be reached, and only staying on it; "multihop", "minerva": as the
            paper's code for each base.
        targets: the triple's own answer, or "all" known ones.
        fallback: where no action is positive: those back to where the walk came from, or none.
        loss: "ce", "bce", "marginal", or as the paper's code has it for each base.
        beta: weight of the entropy.
        method: how reachable sets are held; the labels are the same.
    """

    labels: Literal["reach", "multihop", "minerva"] = "reach"
    targets: Literal["single", "all"] = "single"
    fallback: Literal["backtrack", "drop"] = "backtrack"
    loss: Literal["ce", "bce", "marginal", "official_minerva", "official_multihop"] = "ce"
    beta: float = 0.0
    method: Literal["auto", "bitset", "sparse"] = "auto"

    def __post_init__(self) -> None:
        need("beta", self.beta, 0)


@dataclass(frozen=True)
class Reinforced:
    """The reinforcement stage. None takes the published value of the base policy on that graph.

    Args:
        style: of the loss; "base" is that of the base policy.
        beta: weight of the entropy.
        decay_every: steps in which beta falls to 0.9 of itself; 0 keeps it.
        baseline: taken from the reward: the mean over the walks of a query, the same in deviations, or a moving average.
        ema_rate: of the moving average.
        normalize: bring the advantages of a batch to mean 0 and deviation 1; None: as the style does.
        action_dropout: share of actions hidden from the sampling.
    """

    style: Literal["base", "minerva", "multihop"] = "base"
    beta: float | None = None
    decay_every: int = 0
    baseline: Literal["none", "avg_reward", "avg_reward_normalized", "ema"] = "none"
    ema_rate: float | None = None
    normalize: bool | None = None
    action_dropout: float | None = None

    def __post_init__(self) -> None:
        need("beta", self.beta, 0)
        need("decay_every", self.decay_every, 0)
        need("ema_rate", self.ema_rate, 0, 1, above=True)
        need("action_dropout", self.action_dropout, 0, 1)


@dataclass(frozen=True)
class Shaping:
    """The reward of the arms "ssrl-shaped" and "rl-shaped": a walk that misses earns mu times the score of its end.

    Args:
        kind: of the embedding model that scores; trained first, its time is beside the budget.
        mu: weight of the score.
        threshold: scores up to this count nothing.
        scorer: how it is trained.
    """

    kind: Literal["conve", "complex", "distmult"] = "complex"
    mu: float = 1.0
    threshold: float = 0.0
    scorer: ScorerConfig = field(default_factory=ScorerConfig)

    def __post_init__(self) -> None:
        need("mu", self.mu, 0)
        need("threshold", self.threshold, 0, 1)


@dataclass(frozen=True)
class Budget:
    """What every arm may spend, supervised and reinforced together.

    Args:
        total: CPU seconds of one thread (on an accelerator, seconds), or steps.
        unit: of total.
        sl_share: share of it that the ssrl arms spend supervised.
    """

    total: float = 45.0
    unit: Literal["seconds", "steps"] = "seconds"
    sl_share: float = 20 / 45

    def __post_init__(self) -> None:
        need("total", self.total, 0, above=True)
        need("sl_share", self.sl_share, 0, 1)
        if self.unit == "steps" and self.total != int(self.total):
            raise ValueError(f"total: got {self.total}, need whole steps")

    def stages(self, arm: Arm) -> dict[str, float]:
        """{"sl": , "rl": } of an arm in the budget's unit, stages of nothing left out."""
        sl = {"sl": 1.0, "rl": 0.0, "rl-shaped": 0.0}.get(arm, self.sl_share) * self.total
        sl = round(sl) if self.unit == "steps" else sl
        return {stage: amount for stage, amount in (("sl", sl), ("rl", self.total - sl)) if amount > 0}


@dataclass(frozen=True)
class Search:
    """How trained walkers answer and are ranked.

    Args:
        width: of the beam; None takes the published one.
        reduce: an entity counts by its best path or by the "sum" of all paths found.
        eval_mask: the last step may not end on other answers of the "train" triples, or of "all" (which uses test answers).
        ties: rank among equal scores.
        unreached: an answer that the beam did not reach is a "miss", or is ranked among all of these.
        unseen: triples with an entity that no training triple has.
        both_sides: also rank heads; papers on walkers rank tails only.
        valid_queries: validation triples behind a point of the learning curve, evenly picked.
        curve_points: of every training.
    """

    width: int | None = None
    reduce: Literal["max", "sum"] = "max"
    eval_mask: Literal["train", "all"] = "train"
    ties: Literal["realistic", "optimistic", "pessimistic"] = "realistic"
    unreached: Literal["miss", "rank"] = "miss"
    unseen: Literal["miss", "drop"] = "miss"
    both_sides: bool = False
    valid_queries: int = 400
    curve_points: int = 9

    def __post_init__(self) -> None:
        need("width", self.width, 1, 1 << 16)
        for name in ("valid_queries", "curve_points"):
            need(name, getattr(self, name), 1)


@dataclass(frozen=True)
class Sweep:
    """A whole experiment for every value of one field.

    Args:
        field: such as budget.sl_share or sl.loss; empty is no sweep.
        values: as they would be typed.
    """

    field: str = ""
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.field) != bool(self.values):
            raise ValueError(f"field, values: got {self.field!r}, {self.values}, need both or neither")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"values: got {self.values}, need all different")


@dataclass(frozen=True)
class Config:
    """Walkers on knowledge graphs: every arm of every base policy, on every graph, with every seed, at the same budget.

    Args:
        graphs: "synthetic", made here with two known rules; prepared benchmarks (tenfold data get NAME); "files", from data.path.
        bases: policies.
        arms: "ssrl" (supervised, then reinforced), "rl", "sl" alone, and with a shaped reward "ssrl-shaped", "rl-shaped".
        seeds: of weights, order and walks.
        workers: processes that train side by side, each on one thread.
        log_every: steps between log rows.
        save_every: steps between checkpoints.
    """

    graphs: tuple[GraphName, ...] = ("synthetic",)
    bases: tuple[Base, ...] = ("minerva",)
    arms: tuple[Arm, ...] = ("ssrl", "rl")
    seeds: tuple[int, ...] = (0,)
    data: Data = Data()
    walker: Walker = Walker()
    training: Training = Training()
    sl: Supervised = Supervised()
    rl: Reinforced = Reinforced()
    shaping: Shaping = field(default_factory=Shaping)
    budget: Budget = Budget()
    search: Search = Search()
    sweep: Sweep = Sweep()
    workers: int = 1
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        need_distinct("graphs", self.graphs)
        need_distinct("bases", self.bases)
        need_distinct("arms", self.arms)
        need_seeds(self.seeds)
        if ("files" in self.graphs) != bool(self.data.path):
            raise ValueError(
                f"data.path: got {len(self.data.path)} paths with graphs {', '.join(self.graphs)}, need them with files, and "
                "only there, say --graphs files --data.path MY"
            )
        for name in ("workers", "log_every", "save_every"):
            need(name, getattr(self, name), 1)
        if self.sl.labels == "minerva" and self.training.mask_inverse:
            raise ValueError(
                "sl.labels: minerva goes with --training.no-mask-inverse: its walks may take the inverse edge"
            )
        if self.training.queries == "both" and not self.data.inverse:
            raise ValueError("training.queries: got 'both' without data.inverse, need inverse relations to ask for")
        if self.search.both_sides and not self.data.inverse:
            raise ValueError("search.both_sides: got it without data.inverse, need inverse relations to rank heads")
        if self.bases == ("minerva",) and (self.walker.emb_dropout, self.walker.ff_dropout) != (None, None):
            raise ValueError(
                "walker.emb_dropout, walker.ff_dropout: got them with base 'minerva', need 'multihop': MINERVA has none"
            )
        if self.rl.ema_rate is not None and self.rl.baseline != "ema":
            raise ValueError(f"rl.ema_rate: got {self.rl.ema_rate} with rl.baseline {self.rl.baseline!r}, need 'ema'")
        if self.rl.baseline.startswith("avg") and self.training.rollouts == 1:
            raise ValueError(
                f"training.rollouts: got 1 with rl.baseline {self.rl.baseline!r}, need several walks a query"
            )
        self.variants()  # refuses what the sweep makes wrong

    def settings(self, graph: str, base: Base) -> Settings:
        """What a base policy is trained with on a graph: the published values, and in their place those given."""
        given = {name: getattr(part, name) for part in (self.walker, self.training, self.rl, self.search)
                 for name in (f.name for f in fields(Settings)) if hasattr(part, name)}  # fmt: skip
        return replace(settings_of(graph, base), **{name: value for name, value in given.items() if value is not None})

    def variants(self) -> dict[str, Config]:
        """The value of the swept field as typed, and the config with it; {"": this} without a sweep."""
        plain = replace(self, sweep=Sweep()) if self.sweep.field else self
        return {value: _changed(plain, self.sweep.field, value) for value in self.sweep.values} or {"": plain}


def _changed(config: Config, name: str, value: str) -> Config:
    """A config with one field, named as on the command line, set from text."""
    data: Any = to_json(config)
    *parents, last = name.replace("-", "_").split(".")
    place = data
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place or isinstance(place[last], dict) or parents[:1] == ["sweep"]:
        known = _names(data)
        raise ValueError(f"sweep.field: got {name!r}, need a field of the config{did_you_mean(name, known)}")
    old = place[last]
    if isinstance(old, list):
        place[last] = [_parsed(part) for part in value.split(",")]
    else:
        place[last] = value if isinstance(old, str) else _parsed(value)
    try:
        return from_json(Config, data, where="sweep.values")
    except UserError as error:
        raise ValueError(str(error)) from None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else "null" if text == "None" else text)
    except json.JSONDecodeError:
        return text


def _names(data: dict[str, Any], prefix: str = "") -> list[str]:
    return [name for key, value in data.items()
            for name in (_names(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])]  # fmt: skip
