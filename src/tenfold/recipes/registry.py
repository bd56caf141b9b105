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
    """

    name: str
    title: str
    arxiv: str
    gives: str
    module: str
    status: Literal["works", "planned"] = "planned"


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "ec-dit",
        "EC-DIT: Scaling Diffusion Transformers with Adaptive Expert-Choice Routing",
        "2410.02098",
        "text to image by a mixture-of-experts diffusion transformer, with compute heat-maps",
        "tenfold.recipes.ec_dit",
        "works",
    ),
    Recipe(
        "afm",
        "Apple Intelligence Foundation Language Models",
        "2407.21075",
        "a language model from raw text: clean, pre-train, prune, distil, chat, serve, score",
        "tenfold.recipes.afm",
        "works",
    ),
    Recipe(
        "deep-ssm",
        "Deep State-Space Generative Model For Correlated Time-to-Event Predictions",
        "2407.19371",
        "survival curves of several clinical events, from trajectories",
        "tenfold.recipes.deep_ssm",
        "works",
    ),
    Recipe(
        "meta-forecast",
        "Learning to Select Best Forecast Tasks for Clinical Outcome Prediction",
        "2407.19359",
        "outcome prediction with few labels, learnt task weights",
        "tenfold.recipes.meta_forecast",
        "works",
    ),
    Recipe(
        "moe-vs-dense",
        "Revisiting MoE and Dense Speed-Accuracy Comparisons for LLM Training",
        "2405.15052",
        "fast MoE layers, 3D sharding, budget planner, trade-off curves at equal step time",
        "tenfold.recipes.moe_vs_dense",
        "works",
    ),
    Recipe(
        "kg-ssrl",
        "Knowledge Graph Reasoning with Self-supervised Reinforcement Learning",
        "2405.13640",
        "answers to (head, relation, ?) with the path that explains each",
        "tenfold.recipes.kg_ssrl",
        "works",
    ),
    Recipe(
        "spag",
        "Self-playing Adversarial Language Game Enhances LLM Reasoning",
        "2404.10642",
        "self-play engine and training of any chat model",
        "tenfold.recipes.spag",
        "works",
    ),
    Recipe(
        "mm1",
        "MM1: Methods, Analysis & Insights from Multimodal LLM Pre-training",
        "2403.09611",
        "image-text model, few-shot answers, ablation runner",
        "tenfold.recipes.mm1",
        "works",
    ),
    Recipe(
        "deer",
        "Look Before You Leap: Towards Decision-Aware and Generalizable Tool-Usage for Large Language Models",
        "2402.16696",
        "tool-use data generator, tuned model, agent",
        "tenfold.recipes.deer",
        "works",
    ),
    Recipe(
        "abo",
        "Are Large Language Models Good Prompt Optimizers?",
        "2402.02101",
        "prompts optimized for a task and a model, diagnosis of optimizers",
        "tenfold.recipes.abo",
        "works",
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
