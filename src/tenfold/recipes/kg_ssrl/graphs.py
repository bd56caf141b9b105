"""From a config to a graph: made here, a prepared benchmark, or the user's own files; kept in the run as one file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.neo4j import read_neo4j
from tenfold.graph.readers import hold_out, read_folder, read_rdf, text_lines
from tenfold.graph.synthetic import synthetic_kg
from tenfold.graph.vocabulary import Triple
from tenfold.recipes.kg_ssrl.config import Config, Data, GraphName

_RDF = (".nt", ".ttl", ".nt.gz", ".ttl.gz")
_NEO4J = (":START_ID", ":ID", "_start")  # what the first line of its exports has


def build_graph(name: GraphName, data: Data) -> KnowledgeGraph:
    """The graph of that name.

    Raises:
        UserError: absent, damaged, or without triples to validate or to test on.
    """
    make = partial(
        KnowledgeGraph.from_triples,
        inverse=data.inverse,
        max_actions=data.max_actions,
        prune=data.prune if data.max_actions else None,
    )
    if name == "synthetic":
        made = synthetic_kg("rules", data.seed, entities=data.entities, degree=data.degree)
        train, valid, test = (made.splits[split] for split in ("train", "valid", "test"))
        relations = made.relation_names[: made.num_relations]
        return make(train, valid, test, entity_names=made.entity_names, relation_names=relations)
    splits = _held_out(read_files(data), data) if name == "files" else read_folder(find_graph(name))
    kg = make(splits["train"], splits["valid"], splits["test"], splits.get("graph"))
    for split in ("valid", "test"):
        if not len(kg.splits[split]):
            raise UserError(
                f"data.path: no triple can be held out for {split}; give more triples, or a file {split}.tsv"
            )
    return kg


def find_graph(name: str) -> Path:
    """The folder of a prepared benchmark."""
    return data_path(name)


def read_files(data: Data) -> dict[str, list[Triple]]:
    """The user's own triples; a single list is all "train"."""
    files = sorted(data.path)
    for file in files:
        if not file.exists():
            raise UserError(f"data.path: {file} not found")
    first = files[0]
    if len(files) > 1 or (first.is_file() and _is_neo4j(first)):
        return {"train": read_neo4j(*files, name=data.name_property), "valid": [], "test": []}
    if first.name.endswith(_RDF):
        return {"train": read_rdf(first), "valid": [], "test": []}
    return read_folder(first, data.order)


def _is_neo4j(file: Path) -> bool:
    if ".csv" not in file.suffixes:
        return False
    header = next(iter(text_lines(file)), "")
    return any(mark in header for mark in _NEO4J)


def _held_out(splits: dict[str, list[Triple]], data: Data) -> dict[str, list[Triple]]:
    """Fill the splits that have no file from the training triples."""
    shares = {split: 0.0 if splits[split] else getattr(data, split) for split in ("valid", "test")}
    if not any(shares.values()):
        return splits
    parts = hold_out(splits["train"], **shares, seed=data.seed)
    return splits | {split: triples for split, triples in parts.items() if split == "train" or shares[split]}


def describe(name: GraphName, data: Data) -> str:
    """What the graph is, in words."""
    if name == "synthetic":
        return "a simulated graph: q(x, z) holds where a path a, b or b, c, a leads from x to z"
    return ", ".join(map(str, data.path)) if name == "files" else name


def tag(config: Config, value: str) -> str:
    """Begins the names of graphs and scorers where a sweep makes different ones."""
    own = config.sweep.field.startswith(("data.", "shaping."))
    return f"v{config.sweep.values.index(value)}-" if own else ""


def graph_file(run_path: Path, start: str, name: str) -> Path:
    """Where a run keeps a graph."""
    return run_path / "graphs" / f"{start}{name}.npz"
