"""A simulated target and a simulated optimizer whose truth is known, to test optimizers and their diagnostics with.

They are a simulator: what is measured with them says nothing about language models.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from tenfold.core.config import need
from tenfold.prompts.examples import Example
from tenfold.prompts.roles import FOLLOWED, VALID, parse_tags, role_of, tagged
from tenfold.prompts.sim_worlds import WORLDS, Skill, World, world_of
from tenfold.text.messages import SAMPLING, Message, Reply, Sampling, estimated_usage

P_DEFAULT, P_NAMED, P_DEMO = 0.75, 0.78, 0.99


def unit(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts' text alone."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64


class SimTarget:
    """A simulated model that counts objects and navigates. It carries each of three sub-skills out with a probability that
    depends on the prompt: 0.75 where no step names it, 0.78 where one does, 0.99 where a demonstration of that step is there too.

    Which ones is decided by a hash of (seed, prompt, question, skill): the same always. A sub-skill that is left out gives
    a plausible wrong number, or a coin for Yes and No; so every error has a known cause.

    Args:
        seed: of all draws.
        p_default, p_named, p_demo: probabilities.
    """

    simulator = True

    def __init__(
        self, seed: int = 0, p_default: float = P_DEFAULT, p_named: float = P_NAMED, p_demo: float = P_DEMO
    ) -> None:
        for name, value in (("p_default", p_default), ("p_named", p_named), ("p_demo", p_demo)):
            need(name, value, 0, 1)
        self.name = "simulator: target"
        self.seed, self.chances = seed, (p_default, p_named, p_demo)
        self.identity = f"{self.name} {seed} {self.chances}"

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """n times the same transcript."""
        text = self.transcript("\n".join(message.content for message in messages))
        return [Reply(text, "stop", estimated_usage(messages, text)) for _ in range(n)]

    def transcript(self, asked: str) -> str:
        """The reply to a prompt with a question."""
        parts = self._parts(asked)
        if parts is None:
            return "I do not know."
        world, prompt, question = parts
        done = self._done(world, prompt, question)
        lines, answer = world.solve(question, done, random.Random(f"slip {self.seed} {unit(prompt, question)}"))
        steps = numbered_steps(prompt)
        if steps:
            shown = [self._step_line(world, number, text, lines) for number, text in steps]
        else:
            shown = [f"{skill.label}: {lines[skill.name]}" for skill in world.skills if skill.name in lines]
        return "\n".join([*(line for line in shown if line), f"So the answer is {answer}."])

    def true_cause(self, prompt: str, example: Example) -> str:
        """The first sub-skill that the target leaves out on an example under a prompt; "other" where it leaves none out."""
        parts = self._parts(f"{prompt}\nQ: {example.input}\nA:" if prompt.strip() else f"Q: {example.input}\nA:")
        if parts is None:
            return "other"
        world, own, question = parts
        done = self._done(world, own, question)
        return next((skill.name for skill in world.skills if skill.name not in done), "other")

    def _parts(self, asked: str) -> tuple[World, str, str] | None:
        """World, prompt and question of a request."""
        world = world_of(asked)
        found = [] if world is None else list(re.finditer(world.question, asked, re.DOTALL))
        if world is None or not found:
            return None
        prompt = asked[: found[-1].start()].removesuffix("Q: ") + asked[found[-1].end() :].strip().removesuffix("A:")
        return world, prompt.strip(), found[-1][0]

    def _done(self, world: World, prompt: str, question: str) -> list[str]:
        instruction, _, demo = prompt.partition("\nExample\n")
        shown = {int(number) for number in re.findall(r"(?m)^Step (\d+):", demo)}
        steps = numbered_steps(prompt)
        done = []
        for skill in world.skills:
            level = int(skill.named_in(instruction))
            if level and any(number in shown and skill.named_in(text) for number, text in steps):
                level = 2
            if unit(self.seed, prompt, question, skill.name) < self.chances[level]:
                done.append(skill.name)
        return done

    @staticmethod
    def _step_line(world: World, number: int, text: str, lines: dict[str, str]) -> str:
        skill = next((skill for skill in world.skills if skill.named_in(text)), None)
        if skill is None:
            return f"Step {number}: done."
        return f"Step {number}: {skill.label}: {lines[skill.name]}" if skill.name in lines else ""


def numbered_steps(prompt: str) -> list[tuple[int, str]]:
    """The numbered steps of a prompt, before its example."""
    head = prompt.partition("\nExample\n")[0]
    return [(int(number), text) for number, text in re.findall(r"(?m)^(\d{1,2})\. (.+)$", head)]


class SimOptimizer:
    """A simulated optimizer that answers every role. With probability `beta` it blames a fixed prior cause, else the true
    one, which it reads off the target's transcript: the first sub-skill that has no line.

    Args:
        beta: weight of the prior, in [0, 1].
        seed: of all draws.
    """

    simulator = True

    def __init__(self, beta: float = 0.0, seed: int = 0) -> None:
        need("beta", beta, 0, 1)
        self.name = "simulator: optimizer"
        self.beta, self.seed = beta, seed
        self.identity = f"{self.name} {beta} {seed}"
        self._roles: dict[str, Callable[[str, World, random.Random], str]] = {
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
            "judge": self._judge,
        }

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """n replies that depend on (seed, messages, the sampling's seed, index)."""
        role, said = role_of(messages), messages[-1].content
        if role not in self._roles:
            raise ValueError(f"simulator: a request without a role it knows ({role})")
        replies = []
        for index in range(n):
            draw = random.Random(f"{self.seed} {role} {sampling.seed} {index} {unit(said)}")
            text = self._roles[role](said, world_of(said) or self._guess(said), draw)
            replies.append(Reply(text, "stop", estimated_usage(messages, text)))
        return replies

    @staticmethod
    def _guess(said: str) -> World:
        """The world whose skills a request without a question speaks of."""
        named = {
            world: sum(skill.named_in(said) or skill.name in said for skill in world.skills)
            for world in WORLDS.values()
        }
        return max(named, key=lambda world: named[world])

    def prior(self, world: World) -> Skill:
        """The cause that it always suspects: the last sub-skill, a slip at the end."""
        return world.skills[-1]

    def blamed(self, world: World, reply: str, draw: random.Random) -> Skill | None:
        """The cause that it names for a reply; None where it finds no fault in it."""
        if draw.random() < self.beta:
            return self.prior(world)
        return next((skill for skill in world.skills if f"{skill.label}:" not in reply), None)

    def _induce(self, said: str, world: World, draw: random.Random) -> str:
        hint = draw.choice(world.skills).hint if draw.random() < 0.5 else ""
        return tagged("prompt", _dressed(f"{draw.choice(world.starts)} {hint}".strip(), draw))

    def _paraphrase(self, said: str, world: World, draw: random.Random) -> str:
        return tagged("prompt", _dressed(_undressed(parse_tags(said, "instruction")[0]), draw))

    def _reflect(self, said: str, world: World, draw: random.Random) -> str:
        replies = parse_tags(said, "reply") or [""]
        if world_of(said) is None:  # no example: nothing tells the world, so the priors of all are named
            text = " ".join(each.skills[-1].blame for each in WORLDS.values())
            return tagged("reason", text if draw.random() < self.beta else "Nothing in the reply explains the error.")
        wanted = re.search(r"Give (\d+) different reasons", said)
        reasons = []
        for index in range(int(wanted[1]) if wanted else 1):
            skill = self.blamed(world, replies[index % len(replies)], draw)
            reasons.append(
                tagged("reason", "Nothing in the reply explains the error." if skill is None else skill.blame)
            )
        return "\n".join(reasons)

    def _edit(self, said: str, world: World, draw: random.Random) -> str:
        parent, reason = (parse_tags(said, tag)[0] for tag in ("instruction", "reason"))
        wanted = re.search(r"Write (\d+) different", said)
        skill = next((s for s in world.skills if re.search(rf"\b{s.name}\b", reason)), None)
        text = _undressed(parent) or draw.choice(world.starts)
        if skill is not None and not skill.named_in(text):
            text = f"{text} {skill.hint}"
        return "\n".join(tagged("prompt", _dressed(text, draw)) for _ in range(int(wanted[1]) if wanted else 1))

    def _summarise(self, said: str, world: World, draw: random.Random) -> str:
        return tagged("reason", Counter(parse_tags(said, "reason")).most_common(1)[0][0])

    def _history(self, said: str, world: World, draw: random.Random) -> str:
        best = _undressed((parse_tags(said, "instruction") or [""])[-1])
        kept = best if best and draw.random() < 0.5 else draw.choice(world.starts)
        skill = draw.choice(world.skills)
        return tagged("prompt", _dressed(kept if skill.named_in(kept) else f"{kept} {skill.hint}", draw))

    def _decompose(self, said: str, world: World, draw: random.Random) -> str:
        return "\n".join(tagged("step", skill.step) for skill in world.skills)

    def _demonstrate(self, said: str, world: World, draw: random.Random) -> str:
        question, target = parse_tags(said, "input")[-1], parse_tags(said, "output")[-1]
        lines, _ = world.solve(question, [skill.name for skill in world.skills], draw)
        shown = [
            SimTarget._step_line(world, number, text, lines)
            for number, text in numbered_steps(parse_tags(said, "steps")[0])
        ]
        return tagged("demonstration", "\n".join([*shown, f"So the answer is {target}."]))

    def _diagnose(self, said: str, world: World, draw: random.Random) -> str:
        reply, steps = parse_tags(said, "reply")[-1], numbered_steps(parse_tags(said, "steps")[0])
        skill = self.blamed(world, reply, draw)
        number = next((n for n, text in steps if skill is not None and skill.named_in(text)), len(steps))
        followed = "yes" if skill is None or f"{skill.label}:" in reply else "no"
        cause = "Nothing in the reply explains the error." if skill is None else skill.blame
        return "\n".join([tagged("step", str(number)), tagged("followed", followed), tagged("cause", cause)])

    def _refine(self, said: str, world: World, draw: random.Random) -> str:
        wanted = re.search(r"Step (\d+) is carried out", said)
        steps = dict(numbered_steps(parse_tags(said, "steps")[0]))
        text = steps.get(int(wanted[1]) if wanted else 1, "Work it out.")
        return tagged(
            "step",
            f"{text.removesuffix('.')}, {draw.choice(('one after the other', 'with care', 'one a line', 'without haste'))}.",
        )

    def _judge(self, said: str, world: World, draw: random.Random) -> str:
        """Reads the transcripts as `blamed` does; with probability `beta` it holds what it is shown to be right."""
        replies, reasons = parse_tags(said, "reply"), parse_tags(said, "reason")
        if reasons:
            true = [next((s for s in world.skills if f"{s.label}:" not in reply), None) for reply in replies]
            named = any(skill is not None and re.search(rf"\b{skill.name}\b", reasons[0]) for skill in true)
            return tagged("label", VALID[0 if draw.random() < self.beta or named else 1])
        ((_, text),) = numbered_steps(parse_tags(said, "steps")[0])
        skill = next((skill for skill in world.skills if skill.named_in(text)), None)
        shown = skill is None or f"{skill.label}:" in replies[0]
        return tagged("label", FOLLOWED[0 if draw.random() < self.beta or shown else 1])


_BEFORE = ("", "Please: ", "Your task: ", "Instruction: ", "In short: ", "What to do: ", "Now: ", "Read this: ")
_AFTER = (
    "",
    " Be careful.",
    " Take care.",
    " Work slowly.",
    " Be exact.",
    " Mind the details.",
    " Stay calm.",
    " Do not rush.",
    " Then stop.",
)


def _dressed(text: str, draw: random.Random) -> str:
    """A paraphrase as this simulator makes them: other words around the same ones."""
    return f"{draw.choice(_BEFORE)}{text}{draw.choice(_AFTER)}{draw.choice(_AFTER)}"


def _undressed(text: str) -> str:
    for before in _BEFORE[1:]:
        text = text.removeprefix(before)
    while ended := [after for after in _AFTER[1:] if text.endswith(after)]:
        text = text.removesuffix(ended[0])
    return text
