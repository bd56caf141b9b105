"""A scripted writer of prompts for the word world: it reads examples, errors and scores as a careful person would.

It is no language model. It knows English, that is which sentences mean which thing and which nouns are animals; it does not know
the rule of a task nor which wordings a model was taught. What it writes follows from what a request shows it and from nothing else.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from tenfold.core.errors import UserError
from tenfold.prompts.roles import parse_tags, role_of, tagged
from tenfold.prompts.simulator import numbered_steps, unit
from tenfold.prompts.word_world import IDLE, KINDS, TIMES, kinds_in
from tenfold.text.chat import ScriptedChatModel
from tenfold.text.messages import Message, Sampling

NUMBERS = {1: "once", 2: "twice", 3: "three times"}
MEANING = {phrase: ("kind", kind) for kind, own in KINDS.items() for phrase in own} | {
    phrase: ("number", NUMBERS[times]) for times, own in TIMES.items() for phrase in own
}
WORDINGS = {meaning: [phrase for phrase, other in MEANING.items() if other == meaning] for meaning in MEANING.values()}
Meaning = tuple[str, str]
NOTHING = "Nothing in the reply explains the error."


class WordWriter(ScriptedChatModel):
    """A scripted optimizer for the word world; every role but the judge's.

    Where it reads a rule off inputs with their outputs it reads it right, where several fit it takes one of them. So methods differ
    in what they let it see: whether a wording works with a model can only be told from that model's errors and scores.

    Args:
        seed: of all draws.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(self._say, "scripted word writer")
        self.seed, self.identity = seed, f"scripted word writer {seed}"
        self._roles: dict[str, Callable[[str, random.Random], str]] = {
            "induce": self._induce,
            "paraphrase": self._paraphrase,
            "reflect": self._reflect,
            "inspect": self._reflect,
            "edit": self._edit,
            "summarise": self._summarise,
            "history": self._history,
            "decompose": self._decompose,
            "demonstrate": self._demonstrate,
            "diagnose": self._diagnose,
            "refine-step": self._refine,
        }

    def _say(self, messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        role, said = role_of(messages) or "", messages[-1].content
        if role not in self._roles:
            raise UserError(f"{self.name}: it does not play the role {role!r}; name a model that does")
        return self._roles[role](said, random.Random(f"{self.seed} {role} {sampling.seed} {index} {unit(said)}"))

    # Without errors.

    def _induce(self, said: str, draw: random.Random) -> str:
        return tagged("prompt", written([draw.choice(WORDINGS[m]) for m in rule_in(said, draw)], draw))

    def _paraphrase(self, said: str, draw: random.Random) -> str:
        own = meant(parse_tags(said, "instruction")[0])
        return tagged("prompt", written([draw.choice(WORDINGS[MEANING[phrase]]) for phrase in own], draw))

    def _history(self, said: str, draw: random.Random) -> str:
        """A wording for each half of what the examples show: the best scored one, or one that no instruction has."""
        past = list(zip(parse_tags(said, "instruction"), map(int, parse_tags(said, "score")), strict=True))
        chosen = []
        for meaning in rule_in(said, draw):
            tried = {phrase: max((score for text, score in past if phrase in meant(text)), default=-1) for phrase in WORDINGS[meaning]}  # fmt: skip
            best = max(tried.values())
            fresh = [phrase for phrase, score in tried.items() if score < 0]
            good = [phrase for phrase, score in tried.items() if score == best]
            chosen.append(draw.choice(fresh if fresh and (best < 0 or draw.random() < 0.5) else good))
        return tagged("prompt", written(chosen, draw))

    # With errors.

    def _reflect(self, said: str, draw: random.Random) -> str:
        wanted = re.search(r"Give (\d+) different reasons", said)
        found = [blamed(*shown) for shown in shown_in(said)]
        reasons = [reason for each in found for reason in each] or [NOTHING]
        return "\n".join(tagged("reason", draw.choice(reasons)) for _ in range(int(wanted[1]) if wanted else 1))

    def _summarise(self, said: str, draw: random.Random) -> str:
        return tagged("reason", Counter(parse_tags(said, "reason")).most_common(1)[0][0])

    def _edit(self, said: str, draw: random.Random) -> str:
        """The half that the reason speaks of in another wording; the other half stays."""
        parent, reason = (parse_tags(said, tag)[0] for tag in ("instruction", "reason"))
        wanted = re.search(r"Write (\d+) different", said)
        kept, edits = meant(parent), []
        for _ in range(int(wanted[1]) if wanted else 1):
            edit = kept
            if (meaning := named_in(reason)) is not None:
                others = [phrase for phrase in WORDINGS[meaning] if phrase not in kept]
                edit = [phrase for phrase in kept if MEANING[phrase][0] != meaning[0]] + [draw.choice(others)]
            edits.append(tagged("prompt", written(edit, draw)))
        return "\n".join(edits)

    # Behaviour.

    def _decompose(self, said: str, draw: random.Random) -> str:
        return "\n".join(tagged("step", draw.choice(WORDINGS[meaning])) for meaning in rule_in(said, draw))

    def _demonstrate(self, said: str, draw: random.Random) -> str:
        answer = parse_tags(said, "output")[-1]
        lines = [f"Step {n}: {wanted_line(step, answer)}" for n, step in numbered_steps(parse_tags(said, "steps")[0])]
        return tagged("demonstration", "\n".join([*lines, f"So the answer is {answer}."]))

    def _diagnose(self, said: str, draw: random.Random) -> str:
        """The first step whose line is not what the right answer makes it."""
        steps = numbered_steps(parse_tags(said, "steps")[0])
        question, answer, reply = shown_in(said)[0]
        lines = {int(number): line.strip() for number, line in re.findall(r"(?m)^Step (\d+): (.*)$", reply)}
        for number, step in steps:
            if lines.get(number) != wanted_line(step, answer):
                causes = blamed(question, answer, f"The answer is {lines.get(number, '')}.") or [NOTHING]
                own = [cause for cause in causes if (m := named_in(cause)) and m[0] == MEANING.get(step, ("", ""))[0]]
                return "\n".join([tagged("step", str(number)), tagged("followed", "yes" if number in lines else "no"), tagged("cause", (own or causes)[0])])  # fmt: skip
        return "\n".join([tagged("step", str(len(steps))), tagged("followed", "yes"), tagged("cause", NOTHING)])

    def _refine(self, said: str, draw: random.Random) -> str:
        wanted = re.search(r"Step (\d+) is carried out", said)
        step = dict(numbered_steps(parse_tags(said, "steps")[0]))[int(wanted[1]) if wanted else 1]
        half = MEANING.get(step, ("kind", ""))[0]
        meaning = next(m for m in rule_in(said, draw) if m[0] == half)
        return tagged("step", draw.choice([phrase for phrase in WORDINGS[meaning] if phrase != step]))


def meant(instruction: str) -> list[str]:
    """The sentences of an instruction that tell kind or number, in their order."""
    return sorted((phrase for phrase in MEANING if phrase in instruction), key=instruction.index)


def written(phrases: Sequence[str], draw: random.Random) -> str:
    """An instruction of these sentences and up to one of idle talk, in any order."""
    parts = [*phrases, *draw.sample(IDLE, draw.randint(0, 1))]
    draw.shuffle(parts)
    return " ".join(parts) or draw.choice(IDLE)


def rule_in(said: str, draw: random.Random) -> list[Meaning]:
    """What the outputs of a request have in common: kind and number. Where several kinds fit, or none, one is taken."""
    pairs = list(zip(parse_tags(said, "input"), parse_tags(said, "output"), strict=True))
    fit = [kind for kind in KINDS if all(kinds_in(asked).get(kind) == answer.split()[0] for asked, answer in pairs)]
    numbers = {len(answer.split()) for _, answer in pairs} & set(TIMES)
    number = numbers.pop() if len(numbers) == 1 else draw.choice(list(TIMES))
    return [("kind", draw.choice(fit or list(KINDS))), ("number", NUMBERS[number])]


def shown_in(said: str) -> list[tuple[str, str, str]]:
    """(input, output, reply) of each error in a request."""
    return list(zip(*(parse_tags(said, tag) for tag in ("input", "output", "reply")), strict=False))


def blamed(question: str, answer: str, reply: str) -> list[str]:
    """What is wrong with a reply, as reasons; none where nothing is."""
    given = (re.findall(r"answer is ([a-z ]+)", reply) or [""])[-1].split()
    wanted, reasons = answer.split(), []
    kind = next((kind for kind, word in kinds_in(question).items() if word == wanted[0]), None)
    if kind is not None and (not given or given[0] != wanted[0]):
        reasons.append(f"The reply has the wrong word: its kind must be {kind}.")
    if len(given) != len(wanted) and len(wanted) in NUMBERS:
        reasons.append(f"The reply errs in how often the word stands: it must be {NUMBERS[len(wanted)]}.")
    return reasons


def named_in(reason: str) -> Meaning | None:
    """The meaning that a reason asks for."""
    return next((meaning for meaning in WORDINGS if reason.endswith(f" must be {meaning[1]}.")), None)


def wanted_line(step: str, answer: str) -> str:
    """What a step must write down where the answer is this."""
    return {"kind": answer.split()[0], "number": answer}.get(MEANING.get(step, ("", ""))[0], "done.")
