"""A small model that decides: likeness of words as features, a little network over the candidates and "none", and a
regression for the search.

What it learns is how much likeness is enough, not the tools: so it carries over to tools it never saw.
"""

# Shape legend: N samples, K candidates, F features of a pair, H hidden units

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core.atomic import replacing, write_atomic
from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import read_tensors
from tenfold.tools.metrics import Prediction
from tenfold.tools.samples import Candidate, DecisionSample
from tenfold.tools.words import split_name

CARD, WEIGHTS = "ranker.json", "model"
CHARACTERS = 20_000  # of the commonest groups of letters
FOLDS, MISSED = 5, 0.02  # of the search: parts of its cross-validation, share of queries whose tool may be missed


def shown_text(candidate: Candidate) -> str:
    """A candidate's words: as `words.document`."""
    return f"{split_name(candidate.name)} {candidate.description} {split_name(candidate.signature)}"


class Likeness:
    """How like a query and a tool are: by words, by groups of letters, by shared words, and by meaning where asked for.

    Args:
        embed: also a function of texts to unit vectors; None: words alone.
    """

    def __init__(self, embed: Callable[[Sequence[str]], NDArray[np.float64]] | None = None) -> None:
        self.embed = embed

    @property
    def features(self) -> int:
        """F."""
        return 4 + (self.embed is not None)

    def fit(self, tools: Sequence[Candidate], queries: Sequence[str]) -> Likeness:
        """Count words; the tools and queries of training alone."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        documents = [shown_text(tool) for tool in tools]
        self.words = TfidfVectorizer(sublinear_tf=True, stop_words="english").fit([*documents, *queries])
        self.letters = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5), max_features=CHARACTERS)  # fmt: skip
        self.letters.fit([*documents, *queries[: 4 * len(documents)]])
        return self

    def cosines(self, samples: Sequence[DecisionSample]) -> NDArray[np.float64]:
        """By words alone, (N, K): the feature of the floor."""
        _, documents, queries, place = _pairs(samples)
        return _slots(self.words.transform(queries), self.words.transform(documents), place)

    def of(self, samples: Sequence[DecisionSample]) -> NDArray[np.float64]:
        """Features of all pairs, (N, K, F); all samples have K candidates."""
        names, documents, queries, place = _pairs(samples)
        word_queries, word_tools = self.words.transform(queries), self.words.transform(documents)
        wanted, held = (word_queries > 0).astype(np.float64), (word_tools > 0).astype(np.float64)
        found = [
            _slots(word_queries, word_tools, place),
            _slots(self.letters.transform(queries), self.letters.transform(documents), place),
            _slots(word_queries, self.words.transform(names), place),
            _slots(wanted, held, place) / np.maximum(np.asarray(wanted.sum(1)).reshape(-1, 1), 1),
        ]
        if self.embed is not None:
            queries_NE, tools_NE = self.embed(queries), self.embed(documents)
            found.append(np.einsum("ne,nke->nk", queries_NE, tools_NE[place]))
        return np.stack(found, -1)


def _pairs(samples: Sequence[DecisionSample]) -> tuple[list[str], list[str], list[str], NDArray[np.int64]]:
    """Names and documents of the different candidates, the queries, and which candidates each query has, (N, K)."""
    tools = {tool: index for index, tool in enumerate(dict.fromkeys(tool for sample in samples for tool in sample.candidates))}  # fmt: skip
    place = np.array([[tools[tool] for tool in sample.candidates] for sample in samples], dtype=np.int64)
    return [split_name(tool.name) for tool in tools], [shown_text(tool) for tool in tools], [sample.query for sample in samples], place  # fmt: skip


def _slots(left: Any, right: Any, place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Products of sparse rows: of each query with each of its candidates, (N, K)."""
    return np.stack([np.asarray(left.multiply(right[place[:, slot]]).sum(1)).ravel() for slot in range(place.shape[1])], 1)  # fmt: skip


class DecisionRanker(nn.Module):
    """Scores of the candidates and of "none", from features of the pairs.

    Args:
        features: F.
        hidden: H.
        generator: where the weights are drawn from.
    """

    def __init__(self, features: int, hidden: int = 32, *, generator: torch.Generator) -> None:
        super().__init__()
        self.features, self.hidden = features, hidden
        self.pair = nn.Sequential(nn.Linear(2 * features, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.none = nn.Sequential(nn.Linear(2 * features, hidden), nn.GELU(), nn.Linear(hidden, 1))
        with torch.no_grad():
            for weight in self.parameters():
                bound = weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.0
                weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)

    def forward(self, features_NKF: Tensor) -> Tensor:
        """Logits, (N, K + 1); the last is "none"."""
        count = features_NKF.shape[1]
        if count > 1:
            ordered = features_NKF.topk(2, dim=1).values
            best_N1F, second_N1F = ordered[:, :1], ordered[:, 1:]
            rival = torch.where(features_NKF == best_N1F, second_N1F, best_N1F)
        else:
            best_N1F = features_NKF
            rival = second_N1F = torch.zeros_like(features_NKF)
        pairs = self.pair(torch.cat((features_NKF, features_NKF - rival), -1)).squeeze(-1)
        none = self.none(torch.cat((best_N1F, best_N1F - second_N1F), -1)).squeeze(-1)
        return torch.cat((pairs, none), 1)


def ranking_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
    """Cross-entropy of the right candidate, or none.

    Args:
        model: a `DecisionRanker`.
        batch: "features" (N, K, F) and "target" (N,), K where none is right.
    """
    logits = model(batch["features"])
    return F.cross_entropy(logits, batch["target"]), {"weight": len(logits)}


def targets(samples: Sequence[DecisionSample]) -> NDArray[np.int64]:
    """The right place of each sample, (N,): K where none is right."""
    return np.array([sample.names.index(sample.target) if sample.branch == "call" else len(sample.names) for sample in samples])  # fmt: skip


@dataclass
class SearchHead:
    """Whether a query needs a search: a regression over its words and groups of letters, both branches weighing alike."""

    weights: NDArray[np.float64]
    bias: float

    @classmethod
    def fit(cls, likeness: Likeness, searched: Sequence[str], general: Sequence[str], *, letters: bool = True) -> SearchHead:  # fmt: skip
        """Learn from queries that need a tool and from general ones, both kinds weighing alike.

        Args:
            letters: also read groups of letters, and set the cut so that of a hundred queries that need a tool 98 search,
                by cross-validation: a search too many costs less than a tool that is never looked for. False is the floor.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict

        inputs = _inputs(likeness, [*searched, *general], letters)
        right = np.array([1] * len(searched) + [0] * len(general))
        model = LogisticRegression(class_weight="balanced", solver="liblinear", random_state=0)
        model.fit(inputs, right)
        bias = float(model.intercept_[0])
        if letters and min(len(searched), len(general)) >= FOLDS:
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
            scores = cross_val_predict(model, inputs, right, cv=folds, method="decision_function")
            bias -= float(np.quantile(scores[right == 1], MISSED))
        return cls(model.coef_[0].astype(np.float64), bias)

    def probabilities(self, likeness: Likeness, queries: Sequence[str]) -> NDArray[np.float64]:
        """Of needing a search."""
        letters = len(self.weights) > len(likeness.words.vocabulary_)
        scores = _inputs(likeness, queries, letters) @ self.weights + self.bias
        return np.asarray(1 / (1 + np.exp(-scores)))


def _inputs(likeness: Likeness, queries: Sequence[str], letters: bool) -> Any:
    from scipy.sparse import hstack

    words = likeness.words.transform(queries)
    return hstack((words, likeness.letters.transform(queries))).tocsr() if letters else words


@dataclass
class Ranker:
    """All parts together; `decide` is what evaluations call.

    Args:
        likeness: the features.
        head: the search.
        model: the choice.
        bias: added to the score of none; calibrated on tools that were held out.
    """

    likeness: Likeness
    head: SearchHead
    model: DecisionRanker
    bias: float = 0.0

    def logits(self, samples: Sequence[DecisionSample]) -> NDArray[np.float64]:
        """Scores, (N, K + 1), the bias included; all samples have K candidates."""
        with torch.no_grad():
            scores = self.model(torch.as_tensor(self.likeness.of(samples), dtype=torch.float32)).double().numpy()
        scores[:, -1] += self.bias
        return np.asarray(scores)

    def decide(self, samples: Sequence[DecisionSample]) -> list[Prediction]:
        """One prediction each."""
        searching = self.head.probabilities(self.likeness, [sample.query for sample in samples])
        found = [Prediction(bool(p > 0.5), p_search=float(p)) for p in searching]
        for count in sorted({len(sample.candidates) for sample in samples} - {0}):
            index = [i for i, sample in enumerate(samples) if len(sample.candidates) == count]
            logits = self.logits([samples[i] for i in index])
            shares = np.exp(logits - logits.max(1, keepdims=True))
            shares /= shares.sum(1, keepdims=True)
            for i, row in zip(index, shares, strict=True):
                best = int(row.argmax())
                name = samples[i].names[best] if best < count else None
                found[i] = Prediction(found[i].search, name, p_search=found[i].p_search, p_choice=float(row[best]))
        return found

    def calibrate(self, samples: Sequence[DecisionSample]) -> float:
        """Choose the bias of none that gives the most right choices on samples of tools that were held out."""
        self.bias = 0.0
        logits, right = self.logits(samples), targets(samples)
        best = logits[:, :-1].argmax(1)
        margin = logits[:, -1] - logits[:, :-1].max(1)  # none wins where margin + bias > 0
        called = best == right
        order = np.argsort(-margin)
        none = (right == logits.shape[1] - 1)[order]
        score = np.concatenate([[called.sum()], called.sum() + np.cumsum(none.astype(int) - called[order].astype(int))])
        cut = int(score.argmax())  # the first `cut` of the order are refused
        edges = np.concatenate([[margin[order[0]] + 1], margin[order], [margin[order[-1]] - 1]])
        self.bias = -float((edges[cut] + edges[cut + 1]) / 2)
        return self.bias

    def save(self, folder: Path) -> None:
        """Keep it as safetensors and JSON."""
        if self.likeness.embed is not None:
            raise ValueError("ranker: one with an encoder is kept by its run alone")
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": weight.contiguous() for name, weight in self.model.state_dict().items()}
        tensors |= {"head.weights": torch.tensor(self.head.weights), "words.idf": torch.tensor(self.likeness.words.idf_), "letters.idf": torch.tensor(self.likeness.letters.idf_)}  # fmt: skip
        with replacing(folder / f"{WEIGHTS}.safetensors") as temporary:
            save_file(tensors, temporary)
        card = {"hidden": self.model.hidden, "bias": self.bias, "head_bias": self.head.bias, "words": _order(self.likeness.words), "letters": _order(self.likeness.letters)}  # fmt: skip
        write_atomic(folder / CARD, json.dumps(card, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Open what `save` wrote.

        Raises:
            UserError: absent or damaged.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        card = read_object(folder / CARD, hidden=int, bias=float, head_bias=float, words=list, letters=list)
        tensors = read_tensors(folder)
        try:
            likeness = Likeness()
            likeness.words = TfidfVectorizer(sublinear_tf=True, stop_words="english", vocabulary=card["words"])
            likeness.letters = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5), vocabulary=card["letters"])  # fmt: skip
            likeness.words.idf_, likeness.letters.idf_ = tensors["words.idf"].numpy(), tensors["letters.idf"].numpy()
            model = DecisionRanker(likeness.features, card["hidden"], generator=torch.Generator())
            model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})  # fmt: skip
            return cls(likeness, SearchHead(tensors["head.weights"].numpy(), card["head_bias"]), model, card["bias"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder}: damaged: {' '.join(str(error).split())[:200]}") from None


def _order(vectorizer: Any) -> list[str]:
    return sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.get)
