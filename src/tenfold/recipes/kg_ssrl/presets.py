"""The presets; every one says what it should reach and how long it takes."""

from __future__ import annotations

from dataclasses import replace

from tenfold.graph.embed import ScorerConfig
from tenfold.recipes.kg_ssrl.config import Budget, Config, Data, GraphName, Search, Shaping, Training
from tenfold.recipes.kg_ssrl.published import STEPS, Base, settings_of

_SMALL = Training(batch=16)


def _paper(graph: GraphName, base: Base) -> Config:
    """The published settings: MultiHopKG with the reward shaped by ConvE; one supervised round, then the published steps."""
    supervised, reinforced = STEPS[graph, base]
    total = supervised + reinforced
    minerva = base == "minerva"
    return Config(
        graphs=(graph,),
        bases=(base,),
        arms=("ssrl", "rl") if minerva else ("ssrl-shaped", "rl-shaped"),
        seeds=(0, 1, 2),
        data=Data(max_actions=settings_of(graph, base).max_actions, prune="first" if minerva else "pagerank"),
        shaping=Shaping(kind="conve", scorer=ScorerConfig(epochs=1000)),
        budget=Budget(total, "steps", supervised / total),
        save_every=500,
    )


PRESETS: dict[str, Config] = {
    "tiny": Config(training=Training(batch=16, relations=("q",)), budget=Budget(12.0, sl_share=0.4), workers=2),
    "umls": Config(graphs=("umls",), training=_SMALL, budget=Budget(240.0), workers=2),
    "kinship": Config(graphs=("kinship",), training=_SMALL, budget=Budget(400.0), workers=2),
    "wn18rr": Config(
        graphs=("wn18rr",), seeds=(0, 1, 2), training=Training(batch=64), workers=2, search=Search(valid_queries=200)
    ),
    "large": Config(
        graphs=("nell-995", "fb15k-237"),
        seeds=(0, 1, 2),
        training=Training(batch=64),
        data=Data(max_actions=200),
        budget=Budget(120.0),
        search=Search(valid_queries=200),
        workers=2,
    ),
    "laptop": Config(
        graphs=("umls", "kinship"),
        bases=("minerva", "multihop"),
        arms=("ssrl", "rl", "sl", "ssrl-shaped"),
        seeds=(0, 1, 2),
        training=_SMALL,
        shaping=Shaping(scorer=ScorerConfig(epochs=200)),
        search=Search(valid_queries=200, curve_points=7),
        workers=2,
    ),
}
PRESETS["wn18rr-10min"] = replace(PRESETS["wn18rr"], budget=Budget(600.0))
PRESETS |= {f"{graph}-{base}": _paper(graph, base) for graph, base in STEPS}  # type: ignore[arg-type]
PRESETS["paper"] = PRESETS["fb15k-237-minerva"]
EXPECTED = {
    "tiny": "a walker finds two made-up rules, with and without the supervised start; one seed; under a minute on two cores",
    "umls": "UMLS, MINERVA's policy, 240 CPU seconds an arm, one seed: the goal is an MRR of .80; about 5 minutes on two cores (an estimate)",
    "kinship": "Kinship, 400 CPU seconds an arm, one seed: the goal is an MRR of .66; about 8 minutes on two cores (an estimate)",
    "wn18rr": "WN18RR, 45 CPU seconds an arm, three seeds: both arms at .40 or more; 6 minutes on two cores",
    "wn18rr-10min": "WN18RR, 600 CPU seconds an arm, three seeds: the goal is .43; about 35 minutes on two cores (an estimate)",
    "large": "NELL-995 and FB15K-237, MINERVA's policy, 120 CPU seconds an arm, three seeds, a part of the published budget: what holds there; "
    "about 18 minutes on two cores (an estimate)",
    "laptop": "UMLS and Kinship, both base policies, 45 CPU seconds an arm, three seeds: supervised and reinforced against each alone "
    "and with a shaped reward; half an hour on two cores",
    "wn18rr-minerva": "the published settings; hours (an estimate)",
    "nell-995-minerva": "the published settings; hours (an estimate)",
    "fb15k-237-minerva": "the published settings; a day (an estimate)",
    "wn18rr-multihop": "the published settings, reward shaped by ConvE; a day (an estimate)",
    "nell-995-multihop": "the published settings, reward shaped by ConvE; a day (an estimate)",
    "fb15k-237-multihop": "the published settings, reward shaped by ConvE; days (an estimate)",
    "paper": "the same as fb15k-237-minerva",
}
