"""The ten recipes: what each is, whether it works yet, and where its module lies. Importing this imports no recipe."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    Args:
        name: the command's name.
        title: the paper's title.
        arxiv: its arXiv number.
        gives: what a user gets from it.
        module: where its code lies.
        status: "works", or "planned" where there is no module yet.
        purpose: what it is for, in two sentences for somebody who does not know the paper.
        picture: the figure of its run that shows this best.
        go_on: what to try next, command and why; RUN in it is the run's folder.
        tiny_seconds: of preset tiny on two idle cores.
    """

    name: str
    title: str
    arxiv: str
    gives: str
    module: str
    status: Literal["works", "planned"] = "planned"
    purpose: str = ""
    picture: str = ""
    go_on: tuple[tuple[str, str], ...] = ()
    tiny_seconds: int = 60


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "ec-dit",
        "EC-DIT: Scaling Diffusion Transformers with Adaptive Expert-Choice Routing",
        "2410.02098",
        "text to image by a mixture-of-experts diffusion transformer, with compute heat-maps",
        "tenfold.recipes.ec_dit",
        "works",
        "A text-to-image model in which experts choose the patches that they work on, so compute goes where a picture needs it. "
        "Use it to draw captions, to see where the compute went, or to train such a model on pictures of your own.",
        "heat",
        (
            ('tenfold ec-dit sample RUN "a red circle" "two blue squares"', "draw captions of your own"),
            ('tenfold ec-dit heatmap RUN "a red circle"', "see which patches the experts chose"),
            ("tenfold ec-dit train laptop", "the same beside its rivals, with intervals"),
        ),
        57,
    ),
    Recipe(
        "afm",
        "Apple Intelligence Foundation Language Models",
        "2407.21075",
        "a language model from raw text: clean, pre-train, prune, distil, chat, serve, score",
        "tenfold.recipes.afm",
        "works",
        "Every stage of a language model for a device, in one chain: clean text, pre-train, prune, distil, align, squeeze below four "
        "bits a weight, add adapters. Use one stage on a model of yours, or the whole chain.",
        "learning",
        (
            (
                "tenfold afm chat smollm2-135m-instruct",
                "chat with a pretrained model (tenfold models get smollm2-135m-instruct)",
            ),
            ("tenfold afm serve smollm2-135m-instruct", "the same behind OpenAI's API"),
            ("tenfold afm train laptop", "each stage against what it must beat"),
        ),
        56,
    ),
    Recipe(
        "deep-ssm",
        "Deep State-Space Generative Model For Correlated Time-to-Event Predictions",
        "2407.19371",
        "survival curves of several clinical events, from trajectories",
        "tenfold.recipes.deep_ssm",
        "works",
        "Reads a patient's trajectory and tells when each of several events comes, together rather than one by one. Use it on "
        "hospital data or on anything with series, interventions and event times.",
        "sim-patients",
        (
            ("tenfold deep-ssm whatif RUN --plan treatment=1,1,0", "survival under a plan of treatment"),
            ("tenfold deep-ssm predict RUN patients.csv", "predict for patients of your own"),
            ("tenfold deep-ssm train laptop", "eight methods on three cohorts"),
        ),
        18,
    ),
    Recipe(
        "meta-forecast",
        "Learning to Select Best Forecast Tasks for Clinical Outcome Prediction",
        "2407.19359",
        "outcome prediction with few labels, learnt task weights",
        "tenfold.recipes.meta_forecast",
        "works",
        "Predicts an outcome from few labels: an encoder first learns to forecast many variables, and how much each of these "
        "tasks counts is learned too. Use it where series are plenty and labels are dear.",
        "sim weights",
        (
            ("tenfold meta-forecast report RUN", "all tables of this run"),
            ("tenfold meta-forecast predict RUN patients.csv", "predict for subjects of your own"),
            ("tenfold meta-forecast train death48", "real stays in intensive care"),
        ),
        14,
    ),
    Recipe(
        "moe-vs-dense",
        "Revisiting MoE and Dense Speed-Accuracy Comparisons for LLM Training",
        "2405.15052",
        "fast MoE layers, 3D sharding, budget planner, trade-off curves at equal step time",
        "tenfold.recipes.moe_vs_dense",
        "works",
        "Is a mixture of experts better than a dense model that takes the same time a step? Use its layers, its planner before you "
        "pay for a cluster, or the comparison itself.",
        "learning",
        (
            ("tenfold moe-vs-dense plan --hardware h100 --devices 64", "step time and memory on your cluster"),
            ("tenfold moe-vs-dense bench", "time the layers on this machine"),
            ("tenfold moe-vs-dense train laptop", "five families at equal seconds"),
        ),
        53,
    ),
    Recipe(
        "kg-ssrl",
        "Knowledge Graph Reasoning with Self-supervised Reinforcement Learning",
        "2405.13640",
        "answers to (head, relation, ?) with the path that explains each",
        "tenfold.recipes.kg_ssrl",
        "works",
        "Answers questions on a knowledge graph by walking it, and shows the path that explains each answer. Use it on a graph of "
        "your own, or mine rules from the walks.",
        "answers",
        (
            ("tenfold kg-ssrl rules RUN", "the rules that the walker follows"),
            ("tenfold kg-ssrl eval RUN", "rank the test triples"),
            ("tenfold kg-ssrl train laptop", "real graphs, with intervals"),
        ),
        19,
    ),
    Recipe(
        "spag",
        "Self-playing Adversarial Language Game Enhances LLM Reasoning",
        "2404.10642",
        "self-play engine and training of any chat model",
        "tenfold.recipes.spag",
        "works",
        "A language model learns from playing a word game against itself, where a referee knows who won. Use it to train a chat "
        "model by self-play, to let models meet, or to play one yourself.",
        "stages",
        (
            ("tenfold spag play RUN --me defender", "play it yourself"),
            ("tenfold spag arena RUN scripted", "let two players meet"),
            ("tenfold spag train laptop", "signed and published credit, three seeds"),
        ),
        43,
    ),
    Recipe(
        "mm1",
        "MM1: Methods, Analysis & Insights from Multimodal LLM Pre-training",
        "2403.09611",
        "image-text model, few-shot answers, ablation runner",
        "tenfold.recipes.mm1",
        "works",
        "A picture encoder, a connector and a language model, trained on pictures with captions, pages of both, and text. Use it to "
        "ask about pictures and to find out which choice of data or design matters.",
        "shots",
        (
            (
                'tenfold mm1 chat RUN --image picture.png --question "how many objects are there?"',
                "ask about a picture",
            ),
            ("tenfold mm1 ablate tiny", "vary connector and tokens"),
            ("tenfold mm1 train laptop", "mixes of data, three seeds"),
        ),
        40,
    ),
    Recipe(
        "deer",
        "Look Before You Leap: Towards Decision-Aware and Generalizable Tool-Usage for Large Language Models",
        "2402.16696",
        "tool-use data generator, tuned model, agent",
        "tenfold.recipes.deer",
        "works",
        "Before a model calls a tool it should decide whether to look for one, and whether any that it finds fits. Use it to build "
        "training samples from tools, to tune a model, or to run an agent.",
        "decisions",
        (
            ("tenfold deer eval RUN --limit 50", "decisions on tools never seen"),
            ('tenfold deer agent "what is 12 times 7?" --tools tools.py', "an agent with functions of your own"),
            ("tenfold deer train laptop", "six ways to draw candidates, five seeds"),
        ),
        14,
    ),
    Recipe(
        "abo",
        "Are Large Language Models Good Prompt Optimizers?",
        "2402.02101",
        "prompts optimized for a task and a model, diagnosis of optimizers",
        "tenfold.recipes.abo",
        "works",
        "Finds a better prompt for a task and a model within a budget, and tells why a search worked or did not. Use it on a table of "
        "questions and answers of your own and any model behind OpenAI's API.",
        "curves",
        (
            ("tenfold abo optimize --task sim/navigate --target-model sim", "a search on the simulator"),
            ("tenfold abo plan --data my.csv --target-model MODEL", "what a search of yours would cost"),
            ("tenfold abo train laptop", "ten methods, five seeds, simulated"),
        ),
        6,
    ),
)


def find(name: str) -> Recipe:
    """The recipe of that name; underscores count as hyphens.

    Raises:
        UserError: no such recipe.
    """
    names = [recipe.name for recipe in RECIPES]
    spelt = name.replace("_", "-")
    if spelt not in names:
        raise UserError(f"unknown recipe {name!r}{did_you_mean(spelt, names)}; `tenfold list` shows all")
    return RECIPES[names.index(spelt)]


def load(recipe: Recipe) -> ModuleType:
    """Import a recipe's module: `Config`, `PRESETS`, `EXPECTED`, `train`, `VERBS`, perhaps `check`.

    Raises:
        UserError: the recipe is planned and has no module yet.
    """
    if recipe.status != "works":
        working = ", ".join(other.name for other in RECIPES if other.status == "works")
        raise UserError(f"{recipe.name} is planned and not in this version yet; these work: {working}")
    return importlib.import_module(recipe.module)
