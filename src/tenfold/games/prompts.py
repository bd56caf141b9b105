"""What players of Adversarial Taboo are told: packs of wordings, and the prompts made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tenfold.core.config import from_json, read_json
from tenfold.core.errors import UserError
from tenfold.games.game import Turn
from tenfold.text.messages import Message

GUESS = "I know the word! It is `{word}`!"

# A chat template for models that were trained on bare text, such as those that the paper's authors released.
PLAIN_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class PromptPack:
    """Wordings; `{max_turns}`, `{target_word}`, `{role}` and `{content}` are filled in.

    Args:
        rules: paraphrases of the rules; the first is played with, all are trained with.
        start: follows the rules where nothing has been said yet.
        history_header: follows them where something has.
        line: one utterance of the history.
        instruction: to the attacker and to the defender.
        cue: what the player's answer follows.
    """

    rules: tuple[str, ...]
    start: str
    history_header: str
    line: str
    instruction: Mapping[str, str]
    cue: str
    heading: str = field(default="\n\n### Instruction: ", kw_only=True)

    def __post_init__(self) -> None:
        if not self.rules:
            raise ValueError("rules: got none, need at least one wording")
        if set(self.instruction) != {"attacker", "defender"}:
            raise ValueError(f"instruction: got {', '.join(sorted(self.instruction))}, need attacker and defender")
        if "{target_word}" not in self.instruction["attacker"]:
            raise ValueError("instruction: the attacker's lacks {target_word}, without which it cannot play")
        if any("{target_word}" in text for text in (*self.rules, self.start, self.instruction["defender"])):
            raise ValueError("rules, start, instruction: {target_word} belongs into the attacker's instruction only")

    @classmethod
    def load(cls, path: str | Path) -> PromptPack:
        """A pack from its JSON file.

        Raises:
            UserError: no such file, or fields missing, unknown or of another kind.
        """
        if not Path(path).is_file():
            raise UserError(f"prompt pack not found: {path}; give a JSON file with rules, instruction and the rest")
        try:
            return from_json(cls, read_json(Path(path)), where=str(path))
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None

    def rule(self, max_turns: int, wording: int = 0) -> str:
        """One wording of the rules."""
        return self.rules[wording].replace("{max_turns}", str(max_turns))

    def asked(self, role: str, target: str | None) -> str:
        """The instruction to a role; the attacker's holds the target."""
        text = self.instruction[role]
        if role == "attacker":
            if target is None:
                raise ValueError("target: got None, need the word: the attacker knows it")
            text = text.replace("{target_word}", target)
        return text

    def text(self, turns: Sequence[Turn], role: str, max_turns: int, target: str | None = None) -> str:
        """The playing prompt as one text: rules, history, instruction, cue."""
        said = "".join(self.line.replace("{role}", turn.role).replace("{content}", turn.text) for turn in turns)
        history = self.history_header + said if turns else self.start
        return f"{self.rule(max_turns)}{history}{self.heading}{self.asked(role, target)}{self.cue}"

    def chat(self, turns: Sequence[Turn], role: str, max_turns: int, target: str | None = None) -> list[Message]:
        """The playing prompt as a chat: rules and instruction are the system turn, the opponent speaks as user."""
        messages = [Message("system", f"{self.rule(max_turns)}\n\n{self.asked(role, target)}")]
        if not turns or turns[0].role == role:
            messages.append(Message("user", self.start.strip()))
        return messages + [Message("assistant" if turn.role == role else "user", turn.text) for turn in turns]


_GUESS = GUESS.replace("{word}", "target word")

DEFAULT_PACK = PromptPack(
    rules=(
        "Adversarial Taboo is a game of two players, an attacker and a defender. The attacker is given a secret target "
        "word and has to make the defender say that word without noticing; the attacker must never say it. The "
        "defender does not know the word and tries to infer it from the talk. Once in the game the defender may guess, "
        f'with the exact sentence "{_GUESS}". A right guess wins the game for the defender, a wrong one loses it. '
        "After {max_turns} turns of each player without a decision the game is a tie.",
        "You take part in a word game. One player, the attacker, holds a secret target word and wants the other, the "
        "defender, to utter it unknowingly. The attacker loses by saying the word. The defender may stop the game once "
        f'by saying "{_GUESS}" and wins if that is the word, and loses if it is not. The game is tied after '
        "{max_turns} turns.",
        "Rules of the game: an attacker and a defender talk in turn, for {max_turns} turns at most. Only the attacker "
        "knows the target word. If the defender says it by accident, the attacker wins; if the attacker says it, the "
        f'attacker loses. The defender can make a single guess in the form "{_GUESS}", which decides the game: right '
        "wins, wrong loses. Without any of this, nobody wins.",
        "This is a contest of wits over one hidden word. The attacker knows it and leads the talk so that the defender "
        "says it, but may not say it. The defender listens for what the word could be, avoids saying it by chance, "
        f'and may announce it once: "{_GUESS}". Announcing the right word wins, announcing any other loses. When both '
        "have spoken {max_turns} times the game ends in a tie.",
        "Two players, attacker and defender, hold a conversation of {max_turns} turns. A target word is shown to the "
        "attacker alone. Goal of the attacker: that the defender says the word without knowing. Goal of the defender: "
        f'to find the word and say "{_GUESS}". There is one guess; a false one loses. An attacker who says the '
        "word loses too. If time runs out, it is a draw.",
        "In this game the attacker steers a conversation towards a secret target word, never naming it, until the "
        "defender names it unawares. The defender, to whom the word is not told, wins by recognising it and answering "
        f'"{_GUESS}"; this can be tried only once and a mistake gives the game to the attacker. It is a tie if '
        "{max_turns} turns pass.",
        "Let two people play: the attacker has a target word, the defender has none. Saying the word is forbidden to "
        "the attacker and dangerous to the defender, who loses when it slips out. The defender can end the game with "
        f'"{_GUESS}", and wins or loses by whether the word is right. {{max_turns}} turns are allowed, then the game '
        "is a tie.",
        "The attacker and the defender exchange messages. The attacker was told a target word and wins as soon as the "
        "defender uses it in a message; using it himself costs the attacker the game. The defender wins by a correct "
        f'guess, written as "{_GUESS}", and has one attempt, which loses when it is wrong. There are {{max_turns}} '
        "turns; a game that is undecided after them is a tie.",
    ),
    start="\nThe game has just started.",
    history_header="\n### Game History:",
    line="\n  - {role}: {content}",
    instruction={
        "attacker": "You are the attacker. The target word is `{target_word}`. Give your next message.",
        "defender": "You are the defender. Infer the target word, and give your next message.",
    },
    cue="\n\n### Response:",
)
