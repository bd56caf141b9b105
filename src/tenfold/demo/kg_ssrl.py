"""Tab of kg-ssrl: ask a graph and see the path that leads to each answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tenfold.core.errors import UserError
from tenfold.demo import limits
from tenfold.demo.shelf import FIRST, Room
from tenfold.demo.tab import Tab, framed, handle
from tenfold.demo.worker import Deadline
from tenfold.graph.explain import explain_page
from tenfold.graph.reasoner import Reasoner
from tenfold.recipes.kg_ssrl.verbs import open_model

MOST_ANSWERS = 10
LISTED = 500  # names that the lists hold; others may be typed
EXAMPLES = 6


def examples(reasoner: Reasoner) -> list[list[str]]:
    """Questions of the test triples, one a relation."""
    kg = reasoner.kg
    found: dict[int, list[str]] = {}
    for head, relation, _ in kg.splits["test"].tolist():
        if relation in reasoner.trained:
            found.setdefault(relation, [kg.entity_names[head], kg.relation_names[relation]])
    return list(found.values())[:EXAMPLES]


def ask(reasoner: Reasoner, head: Any, relation: Any, k: Any, masked: Any) -> tuple[str, str]:
    """The page of the answers, and them in words.

    Args:
        k: answers at most.
        masked: take away the edges that answer the question in the graph.
    Raises:
        UserError: names that the graph lacks, numbers out of range.
    """
    names = [limits.text("head", head, 200)], limits.text("relation", relation, 200)
    count = limits.whole("answers", k, 1, MOST_ANSWERS)
    (answers,) = reasoner.answer(*names, count, known="mask" if masked is True else "keep", steps=True)
    if not answers:
        raise UserError(f"{names[0][0]} leads nowhere: the graph has no edge at it")
    return explain_page(answers), "\n".join(f"{place}. {each}" for place, each in enumerate(answers, 1))


def open_reasoner(run: Path) -> Reasoner:
    """The run's walker."""
    return open_model(run)


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def listed() -> tuple[Any, Any, Any]:
        def job(deadline: Deadline) -> tuple[list[str], list[str], list[list[str]]]:
            reasoner = room.opened(open_reasoner)
            relations = [reasoner.kg.relation_names[number] for number in sorted(reasoner.trained)]
            return list(reasoner.kg.entity_names[:LISTED]), relations, examples(reasoner)

        heads, relations, some = room.job(job, FIRST)
        head, relation = some[0] if some else (heads[0], relations[0])
        samples = gr.Dropdown(choices=[(f"{each[0]}, {each[1]}, ?", json.dumps(each)) for each in some], value=None)
        return gr.Dropdown(choices=heads, value=head), gr.Dropdown(choices=relations, value=relation), samples

    def taken(row: str) -> list[str]:
        found: list[str] = json.loads(row)
        return found

    def asked(head: str, relation: str, k: int, masked: bool) -> tuple[str, str]:
        page, words = room.job(lambda deadline: ask(room.opened(open_reasoner), head, relation, k, masked))
        return framed(page, 720), words

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            head = gr.Dropdown([], label="Head", allow_custom_value=True, elem_id="kg-ssrl-head")
            relation = gr.Dropdown([], label="Relation", allow_custom_value=True, elem_id="kg-ssrl-relation")
            k = gr.Slider(1, MOST_ANSWERS, 5, step=1, label="Answers")
            masked = gr.Checkbox(
                True, label="Hide the edges that answer it", info="so that it must be found another way"
            )
            button = gr.Button("Ask", variant="primary", elem_id="kg-ssrl-go")
            samples = gr.Dropdown([], label="Questions of the test set")
            words = gr.Textbox(label="Answers in words", lines=5, interactive=False, elem_id="kg-ssrl-words")
        with gr.Column(scale=2):
            page = gr.HTML(label="Answers and their paths")
    room.first_look(listed, [head, relation, samples])
    handle(samples.input, room, taken, [samples], [head, relation])
    handle(button.click, room, asked, [head, relation, k, masked], [page, words])


TAB = Tab(
    "kg-ssrl",
    "Ask a graph",
    "A walker learned, first from labels of its own and then from reward, which edges of a knowledge graph to follow from a head "
    "to the answer of (head, relation, ?). Every answer comes with the path that explains it.",
    build,
)
