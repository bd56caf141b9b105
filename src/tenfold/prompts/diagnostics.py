"""Is the optimizer a good one? The paper's questions as measures: does it find the true cause, does it look at the errors at all, does it repeat itself, and is it followed?

Formulas are ours, after the questions of Ma et al. 2024, arXiv 2402.02101.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tenfold.text.words import normalised_words

if TYPE_CHECKING:
    from tenfold.prompts.candidates import Candidate, State
    from tenfold.prompts.session import Session
    from tenfold.prompts.task import Cause

OTHER = "other"
SAME = 0.9  # similarity from which two texts are one
MOST_TEXTS = 400  # compared with one another; more are thinned evenly


def cause_of(text: str, causes: Sequence[Cause]) -> str:
    """The cause that a reflection names: the first whose pattern is found earliest in it, else "other"."""
    found = [
        (match.start(), number)
        for number, cause in enumerate(causes)
        if (match := re.search(cause.pattern, text, re.IGNORECASE))
    ]
    return causes[min(found)[1]].name if found else OTHER


def reflection_correctness(labels: Sequence[str], truths: Sequence[Collection[str]]) -> float:
    """RC: the share of reflections whose cause is among the true ones of their errors.

    Args:
        labels: cause of each reflection.
        truths: true causes of the errors it was given.
    """
    if len(labels) != len(truths) or not labels:
        raise ValueError(f"labels, truths: got {len(labels)} and {len(truths)}, need as many, at least one")
    return sum(
        label in ({truth} if isinstance(truth, str) else truth) for label, truth in zip(labels, truths, strict=True)
    ) / len(labels)


def jensen_shannon(p: Sequence[str] | Mapping[str, float], q: Sequence[str] | Mapping[str, float]) -> float:
    """Jensen–Shannon divergence to base 2 of two samples of labels, or of two distributions; in [0, 1]."""
    one, two = _distribution(p), _distribution(q)
    total = 0.0
    for name in {*one, *two}:
        a, b = one.get(name, 0.0), two.get(name, 0.0)
        middle = (a + b) / 2
        total += sum(0.5 * share * math.log2(share / middle) for share in (a, b) if share > 0)
    return min(1.0, max(0.0, total))


def _distribution(sample: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    counts: Mapping[str, float] = sample if isinstance(sample, Mapping) else Counter(sample)
    whole = sum(counts.values())
    if whole <= 0:
        raise ValueError("labels: got none, need at least one of each kind")
    return {name: value / whole for name, value in counts.items()}


def prior_bias(real: Sequence[str] | Mapping[str, float], control: Sequence[str] | Mapping[str, float]) -> float:
    """PB = 1 - JSD_2(P_real ‖ P_control): 1 where reflections on real errors are those on no errors at all.

    Args:
        real: causes of reflections on real errors.
        control: causes of reflections on controls: right answers shown as errors, shuffled targets, no examples.
    """
    return 1.0 - jensen_shannon(real, control)


def nmi(a: Sequence[str], b: Sequence[str]) -> float:
    """Normalised mutual information, by the arithmetic mean of the entropies; 0 where either is constant."""
    if len(a) != len(b) or not a:
        raise ValueError(f"a, b: got {len(a)} and {len(b)} labels, need as many, at least one")
    n = len(a)
    one, two, both = Counter(a), Counter(b), Counter(zip(a, b, strict=True))
    entropy = [-sum(c / n * math.log(c / n) for c in counts.values()) for counts in (one, two)]
    if min(entropy) == 0:
        return 0.0
    mutual = sum(c / n * math.log(c * n / (one[x] * two[y])) for (x, y), c in both.items())
    return max(0.0, mutual / (sum(entropy) / 2))


def nmi_test(a: Sequence[str], b: Sequence[str], permutations: int = 1000, seed: int = 0) -> tuple[float, float]:
    """(NMI, p): how much reflections tell of the errors; p by permutation, at least 1 / (permutations + 1)."""
    value = nmi(a, b)
    codes = [np.unique(np.array(x), return_inverse=True)[1] for x in (a, b)]
    width, n = int(codes[1].max()) + 1, len(a)
    entropies = sum(-np.sum((c := np.bincount(x) / n) * np.log(c)) for x in codes) / 2
    generator, at_least = np.random.default_rng(seed), 0
    margins = np.outer(np.bincount(codes[0]), np.bincount(codes[1])).ravel() / n
    for _ in range(permutations):
        table = np.bincount(codes[0] * width + generator.permutation(codes[1]), minlength=len(margins)).astype(float)
        some = table > 0
        mutual = float(np.sum(table[some] / n * np.log(table[some] / margins[some])))
        at_least += (0.0 if entropies == 0 else mutual / float(entropies)) >= value - 1e-12
    return value, (at_least + 1) / (permutations + 1)


def grams(text: str, size: int = 3) -> frozenset[tuple[str, ...]]:
    """The word n-grams of a text; the whole of a shorter one."""
    words = normalised_words(text)
    return frozenset(tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1)))


def jaccard(one: str, two: str) -> float:
    """Similarity of two texts: shared word 3-grams over all."""
    a, b = grams(one), grams(two)
    return len(a & b) / len(a | b)


def repetition(texts: Sequence[str], similarity: np.ndarray | None = None) -> dict[str, float | int | None]:
    """How alike texts are.

    Args:
        texts: reflections, or candidate prompts.
        similarity: [n, n] of another measure, such as the cosine of embeddings; None: word 3-gram Jaccard.
    Returns:
        "mean": of all pairs (None below two texts); "distinct": share of clusters, joined at 0.9 or more; "n".
    """
    kept = (
        list(texts)
        if similarity is not None or len(texts) <= MOST_TEXTS
        else [texts[len(texts) * i // MOST_TEXTS] for i in range(MOST_TEXTS)]
    )
    n = len(kept)
    if n < 2:
        return {"mean": None, "distinct": 1.0 if n else None, "n": n}
    if similarity is None:
        sets = [grams(text) for text in kept]
        similarity = np.eye(n)
        for i in range(n):
            for j in range(i):
                similarity[i, j] = similarity[j, i] = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
    leader = list(range(n))
    for i in range(n):
        for j in range(i):
            if similarity[i, j] >= SAME:
                a, b = _root(leader, i), _root(leader, j)
                leader[max(a, b)] = min(a, b)
    clusters = len({_root(leader, i) for i in range(n)})
    mean = float((similarity.sum() - np.trace(similarity)) / (n * (n - 1)))
    return {"mean": mean, "distinct": clusters / n, "n": n}


def _root(leader: list[int], i: int) -> int:
    while leader[i] != i:
        i = leader[i]
    return i


def following_rate(shown: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """FR: carried-out (example, step) pairs over all, and of each step.

    Args:
        shown: [example, step]: whether the reply carries the step out.
    """
    table = np.array([list(row) for row in shown], dtype=float)
    if table.size == 0:
        return {"rate": None, "steps": [], "n": 0}
    return {"rate": float(table.mean()), "steps": [float(x) for x in table.mean(0)], "n": len(table)}


def one_step_success(edits: Sequence[tuple[bool | None, float, float | None]]) -> dict[str, Any]:
    """How often one edit makes a better prompt.

    Args:
        edits: (reflection valid, None where unknown; gain on val; p of the paired test) of each.
    Returns:
        shares of edits that gain with p < 0.05, where the reflection was valid, was not, and of all.
    """

    def share(some: Sequence[tuple[bool | None, float, float | None]]) -> float | None:
        return None if not some else sum(gain > 0 and p is not None and p < 0.05 for _, gain, p in some) / len(some)

    kinds = {"valid": True, "invalid": False}
    found = {name: share([edit for edit in edits if edit[0] is kind]) for name, kind in kinds.items()}
    counts = {f"n_{name}": sum(edit[0] is kind for edit in edits) for name, kind in kinds.items()}
    return {**found, "all": share(edits), **counts, "n": len(edits)}


def paraphrase_sensitivity(scores: Sequence[float], gain: float | None = None) -> dict[str, Any]:
    """How much val moves among prompts of the same meaning.

    Args:
        scores: mean on val of each paraphrase.
        gain: of an optimized prompt; smaller than the spread it is within noise.
    """
    if len(scores) < 2:
        raise ValueError(f"scores: got {len(scores)}, need at least 2 paraphrases")
    std = float(np.std(scores, ddof=1))
    return {
        "std": std,
        "range": float(max(scores) - min(scores)),
        "n": len(scores),
        "within_noise": None if gain is None else bool(gain < std),
    }


def shuffled(values: Sequence[str], seed: int) -> list[str]:
    """A rotation by a random number of places of a random order: no value keeps its place where all differ."""
    order = random.Random(f"shuffled {seed}").sample(range(len(values)), len(values))
    moved = {order[i]: values[order[i - 1]] for i in range(len(values))}
    return [moved[i] for i in range(len(values))]


def gains_of_edits(
    session: Session,
    candidates: Sequence[Candidate],
    edits: Sequence[Candidate],
    valid: Mapping[tuple[int, str], bool],
) -> list[tuple[bool | None, float, float | None]]:
    """Of each edit whether its reflection was valid (None: unknown), its gain on val, and McNemar's p; for `one_step_success`.

    Args:
        session: that scored them.
        candidates: the tree.
        edits: candidates with a parent.
        valid: by (parent's id, reflection).
    """
    from tenfold.prompts.result import mcnemar_p

    found = []
    for child in edits:
        assert child.parent is not None
        rows = [session.known(each, "val") for each in (child, candidates[child.parent])]
        common = [id for id in rows[0] if id in rows[1]]
        if common:
            a, b = (np.array([row[id].value for id in common]) for row in rows)
            found.append((valid.get((child.parent, child.reflection or "")), float(np.nanmean(a - b)), mcnemar_p(a, b)))
    return found


def of_run(session: Session, state: State) -> dict[str, Any]:
    """What a run shows without asking anything more."""
    from tenfold.prompts.behaviour import Behaviour, steps_shown

    reflections = session.journal.of("reflection")
    causes, truths = session.task.causes, session.true_causes()
    labels = [cause_of(event["text"], causes) for event in reflections]
    found: dict[str, Any] = {
        "reflections": repetition([event["text"] for event in reflections]),
        "prompts": repetition([c.text for c in state.candidates if c.dropped is None]),
        "causes": dict(sorted(Counter(labels).items())),
        "dropped": dict(sorted(Counter(c.dropped for c in state.candidates if c.dropped).items())),
    }
    valid: dict[tuple[int, str], bool] = {}
    if truths and reflections:
        known = [{truths(state.candidates[e["candidate"]].text, id) for id in e["examples"]} for e in reflections]
        found["reflection_correctness"] = reflection_correctness(labels, known)
        found["simulator"] = True
        valid = {
            (e["candidate"], e["text"]): label in true
            for e, label, true in zip(reflections, labels, known, strict=True)
        }
    edits = [c for c in state.candidates if c.parent is not None and not c.dropped and c.scores.get("val")]
    found["one_step_success"] = one_step_success(gains_of_edits(session, state.candidates, edits, valid))
    rates = {}
    for candidate in state.candidates:
        behaviour = Behaviour.of(candidate)
        if behaviour is not None and candidate.dropped is None and behaviour.demo:
            replies = session.known(candidate, "val").values()
            rates[str(candidate.id)] = following_rate([steps_shown(o.text, len(behaviour.steps)) for o in replies])
    if rates:
        found["following"] = rates
    return found
