"""Tab of deer: give tools and ask; see whether one is looked for, which is chosen, and what a call brings."""

from __future__ import annotations

import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from tenfold.core.config import from_json, read_object
from tenfold.core.errors import UserError
from tenfold.demo import limits
from tenfold.demo.shelf import Room
from tenfold.demo.tab import Tab, framed, handle
from tenfold.demo.worker import Deadline
from tenfold.lm.pretrained import list_models
from tenfold.recipes.deer import learners
from tenfold.recipes.deer.config import Config
from tenfold.recipes.deer.experiment import model_folder
from tenfold.recipes.deer.verbs import DEFAULT_MODEL
from tenfold.tools.agent import DecisionAgent, Policy
from tenfold.tools.retrieval import BM25
from tenfold.tools.samples import Candidate, DecisionSample
from tenfold.tools.sources import of_json
from tenfold.tools.tool import ToolRegistry
from tenfold.tools.viewer import view

LONGEST, LARGEST = 500, 40_000  # characters of a query, of the tools
MOST_TOOLS, K = 64, 5
EXAMPLES = (
    "What will the weather be in Oslo tomorrow?",
    "Book me a table for two in Rome on Friday",
    "Write me a short poem about the sea",
    "How long is the flight from Paris to Lima?",
)
TOOLS = json.dumps(
    [
        {"name": "weather_forecast", "description": "Forecast of the weather in a city", "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}, "day": {"type": "string"}}, "required": ["city"]}},
        {"name": "book_restaurant", "description": "Find a restaurant and book a table", "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer"}}, "required": ["city"]}},
        {"name": "exchange_rate", "description": "Exchange rate of two currencies", "inputSchema": {"type": "object", "properties": {"of": {"type": "string"}, "to": {"type": "string"}}, "required": ["of", "to"]}},
    ],
    indent=1,
)  # fmt: skip


def read_tools(text: Any) -> ToolRegistry:
    """The tools of a JSON text: OpenAI's, Anthropic's or MCP's form, or signatures. None of them can be run.

    Raises:
        UserError: no JSON, no tools, too many; an OpenAPI document, whose tools would call addresses from here.
    """
    words = limits.text("tools", text, LARGEST)
    try:
        data = json.loads(words)
    except (ValueError, RecursionError) as error:
        raise UserError(f"tools: no JSON ({error})") from None
    if isinstance(data, dict) and "openapi" in data:
        raise UserError(
            "tools: OpenAPI documents are read by tenfold deer agent alone, since their tools call addresses"
        )
    try:
        registry = of_json(data, "tools")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise error if isinstance(error, UserError) else UserError(f"tools: {error}") from None
    if len(registry) > MOST_TOOLS:
        raise UserError(f"tools: got {len(registry)}, need at most {MOST_TOOLS}")
    return registry


def own_model(run: Path) -> Path:
    """The model of a run's first seed and arm."""
    config = from_json(Config, read_object(run / "config.json"), where=str(run / "config.json"))
    return model_folder(run, config.seeds[0], config.arms[0])


def decide(folder: Path, tools: ToolRegistry, query: Any) -> tuple[dict[str, float], str]:
    """What a run's model decides: the chance of a search and of the choice, and it in words.

    Raises:
        UserError: an empty or too long query.
    """
    words = limits.text("query", query, LONGEST)
    found = BM25(list(tools)).search(words, min(K, len(tools)))
    candidates = tuple(Candidate.of(tool) for tool, _ in found)
    sample = DecisionSample(words, "no_call", candidates)
    with learners.decider(folder) as decider:
        (made,) = decider.decide([sample])
    chances = {} if made.p_search is None else {"look for a tool": made.p_search, "answer at once": 1 - made.p_search}
    if not made.search:
        return chances, "No tool is looked for: the query can be answered at once."
    names = ", ".join(candidate.name for candidate in candidates)
    sure = "" if made.p_choice is None else f" ({made.p_choice:.0%} sure)"
    chosen = "None of them fits" if made.choice is None else f"Chosen: {made.choice}"
    return chances, f"A tool is looked for. Found by words: {names}.\n{chosen}{sure}."


# Tools that an agent may really run here: plain arithmetic on what it is given.


def multiply(first: float, second: float) -> float:
    """Multiply two numbers.

    Args:
        first: a number.
        second: another.
    """
    return first * second


def days_between(first: str, second: str) -> int:
    """Count the days from one date to another.

    Args:
        first: a date as YEAR-MONTH-DAY.
        second: a later one.
    """
    return (date.fromisoformat(second) - date.fromisoformat(first)).days


def count_letter(word: str, letter: str) -> int:
    """Count how often a letter stands in a word.

    Args:
        word: the word.
        letter: the letter.
    """
    return word.lower().count(letter.lower())


def fahrenheit(celsius: float) -> float:
    """Convert a temperature from degrees Celsius to Fahrenheit.

    Args:
        celsius: degrees Celsius.
    """
    return celsius * 9 / 5 + 32


BUILT_IN = (multiply, days_between, count_letter, fahrenheit)


def has_agent() -> bool:
    """Whether the model that decides, calls and answers is on this machine."""
    return any(each.name == DEFAULT_MODEL and each.present for each in list_models())


def act(model: str, query: Any) -> str:
    """The page of an episode: an agent with the built-in tools answers a query.

    Args:
        model: what `learners.chat_model` opens.
    Raises:
        UserError: an empty or too long query, no such model.
    """
    words = limits.text("query", query, LONGEST)
    with learners.chat_model(model, Path(model).name) as speaker, tempfile.TemporaryDirectory() as folder:
        agent = DecisionAgent(
            speaker, ToolRegistry.from_functions(BUILT_IN), k=K, max_steps=6, policy=Policy(max_tokens=96)
        )
        return view(agent.run(words), Path(folder) / "trace.html").read_text(encoding="utf-8")


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def decided(tools: str, query: str) -> tuple[dict[str, float], str]:
        registry = read_tools(tools)
        return room.job(lambda deadline: decide(own_model(room.run), registry, query))

    def acted(query: str) -> str:
        def job(deadline: Deadline) -> str:
            return act(DEFAULT_MODEL, query)

        return framed(room.job(job, 180), 520)

    gr.Markdown("### Look for a tool, or answer at once? And which one?")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            tools = gr.Code(
                TOOLS, language="json", label="Tools, as JSON", lines=12, max_lines=16, elem_id="deer-tools"
            )
        with gr.Column(scale=1, min_width=300):
            query = gr.Textbox(EXAMPLES[0], label="Query", max_length=LONGEST, elem_id="deer-query")
            gr.Examples([[each] for each in EXAMPLES], [query], label="Queries to try")
            button = gr.Button("Decide", variant="primary", elem_id="deer-go")
            chances = gr.Label(label="First decision")
            words = gr.Textbox(label="Decisions", lines=3, interactive=False, elem_id="deer-words")
    handle(button.click, room, decided, [tools, query], [chances, words])
    handle(query.submit, room, decided, [tools, query], [chances, words])
    gr.Markdown("### Let an agent act")
    if not has_agent():
        gr.Markdown(
            f"An agent needs a language model: `tenfold models get {DEFAULT_MODEL}`, then start the demo again."
        )
        return
    names = ", ".join(f"`{each.__name__}`" for each in BUILT_IN)
    gr.Markdown(
        f"`{DEFAULT_MODEL}` decides, calls and answers; its tools here are {names}. It is a small model: it errs often."
    )
    with gr.Row():
        wish = gr.Textbox("How many days are there from 2024-02-01 to 2024-03-01?", show_label=False, max_length=LONGEST, scale=4)  # fmt: skip
        go = gr.Button("Act", variant="primary", scale=1, elem_id="deer-act")
    page = gr.HTML()
    handle(go.click, room, acted, [wish], [page])


TAB = Tab(
    "deer",
    "Tools",
    "Before a tool is called two things are decided: whether to look for one at all, and whether any of those found fits. The "
    "run's model learned both; give it tools of your own.",
    build,
)
