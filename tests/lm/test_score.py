"""Figures of evaluation: accuracies, normalisation, perplexity, generated answers, the paper's table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder
from tenfold.lm.score import evaluate, evaluate_paper, harness_model, is_answer, loglikelihood
from tenfold.lm.tasks import TASKS, NotAvailable, Task

LETTERS = "\0\1 abcdefghijklmnopqrstuvwxyzQA0123456789#:?.,\nß"


class Letters:
    """A token a character; id 0 is bos, 1 is eos."""

    bos_id, eos_id = 0, 1

    def encode(self, text: str) -> list[int]:
        return [LETTERS.index(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i] for i in ids)


class Unigram(nn.Module):
    """Every token has its own fixed log-probability, whatever came before."""

    def __init__(self, logp: dict[str, float], other: float = -5.0) -> None:
        super().__init__()
        weights = torch.tensor([logp.get(c, other) for c in LETTERS], dtype=torch.float64)
        self.logp = nn.Parameter(weights)

    def forward(self, ids_BS: Tensor) -> Tensor:
        return self.logp.expand(*ids_BS.shape, -1)


def write(folder: Path, name: str, *rows: object) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_acc_norm_divides_by_characters_and_acc_bytes_by_utf8_bytes(tmp_path: Path) -> None:
    # Log-probabilities a token (up to one common constant): a -1, b -0.9, ß -0.6; the leading space is left out of
    # the lengths but not of the sums. Made so that the three accuracies pick three different choices.
    model = Unigram({"a": -1.0, "b": -0.9, "ß": -1.2, " ": -1.0}, other=-2000.0)
    constant = math.log(math.exp(-1) * 2 + math.exp(-0.9) + math.exp(-1.2))
    sums = {
        c: sum({"a": -1.0, "b": -0.9, "ß": -1.2, " ": -1.0}[x] - constant for x in " " + c)
        for c in ("a", "bbb", "ßßßß")
    }
    best = max(sums, key=lambda c: sums[c])
    by_characters = max(sums, key=lambda c: sums[c] / len(c))
    by_bytes = max(sums, key=lambda c: sums[c] / len(c.encode()))
    assert (best, by_characters, by_bytes) == ("a", "bbb", "ßßßß")  # the case is worth its name
    choices = list(sums)
    for gold, choice in enumerate(choices):
        folder = write(tmp_path / choice, "piqa", {"context": "Q:", "choices": choices, "gold": gold})
        scores = evaluate(model, Letters(), "piqa", data=folder)["piqa"]
        assert (scores["acc"], scores["acc_norm"], scores["acc_bytes"]) == (
            float(choice == best), float(choice == by_characters), float(choice == by_bytes),
        )  # fmt: skip


def test_standard_error_is_the_sample_deviation_over_root_n(tmp_path: Path) -> None:
    rows = [{"context": "Q:", "choices": ["a", "b"], "gold": gold} for gold in (0, 0, 0, 1)]
    write(tmp_path, "copa", *rows)
    scores = evaluate(Unigram({"a": -1.0}), Letters(), ["copa"], data=tmp_path)["copa"]
    assert scores["acc"] == 0.75
    assert scores["n"] == 4
    assert scores["stderr"] == pytest.approx(0.5 / 2)  # hits 1, 1, 1, 0: sample deviation 0.5
    assert evaluate(Unigram({"a": -1.0}), Letters(), ["copa"], limit=1, data=tmp_path)["copa"]["stderr"] is None
    assert scores["ppl"] is None


def test_a_tie_goes_to_the_first_choice(tmp_path: Path) -> None:
    write(
        tmp_path,
        "copa",
        {"context": "Q:", "choices": ["a", "b"], "gold": 0},
        {"context": "Q:", "choices": ["b", "a"], "gold": 1},
    )
    assert evaluate(Unigram({}), Letters(), "copa", data=tmp_path)["copa"]["acc"] == 0.5


class Repeater(nn.Module):
    """After the k-th token comes itself, with logit 3 + k / 10; every other token has logit 0."""

    def __init__(self) -> None:
        super().__init__()
        size = len(LETTERS)
        self.table = nn.Parameter(torch.diag(3 + torch.arange(size, dtype=torch.float64) / 10))

    def forward(self, ids_BS: Tensor) -> Tensor:
        return self.table[ids_BS]


def test_partial_scoring_compares_contexts(tmp_path: Path) -> None:
    write(
        tmp_path, "winogrande",
        {"contexts": ["ac", "ad"], "continuation": "b", "gold": 0},
        {"contexts": ["ad", "ac"], "continuation": "b", "gold": 1},
    )  # fmt: skip
    model = Repeater()
    first, second = (logp for logp, _ in loglikelihood(model, Letters(), [("ac", " b"), ("ad", " b")]))
    assert first > second  # d is surer of repeating itself than c, so less likely to go on with a space
    scores = evaluate(model, Letters(), "winogrande", data=tmp_path)["winogrande"]
    assert scores["acc"] == 1.0
    assert scores["acc_norm"] is scores["acc_bytes"] is scores["ppl"] is None


def test_lambada_is_greedy_match_and_perplexity(tmp_path: Path) -> None:
    write(tmp_path, "lambada", {"context": "a", "target": "b"}, {"context": "b", "target": "bc"})
    model = Unigram({" ": -1.0, "b": -1.0})
    (one, two) = loglikelihood(model, Letters(), [("a", " b"), ("b", " bc")])
    scores = evaluate(model, Letters(), "lambada", data=tmp_path)["lambada"]
    assert scores["ppl"] == pytest.approx(math.exp(-(one[0] + two[0]) / 2))
    # Space and b tie; the argmax is the earlier id, the space: " b" is not greedy.
    assert scores["acc"] == 0.0
    assert scores["acc_norm"] is scores["acc_bytes"] is None
    sure = Unigram({" ": -1.0})
    write(tmp_path, "lambada", {"context": "a", "target": "  ."}, {"context": "b", "target": "b"})
    assert evaluate(sure, Letters(), "lambada", data=tmp_path)["lambada"]["acc"] == 0.0


def test_lambada_accuracy_counts_the_greedy_word(tmp_path: Path) -> None:
    # A space after the context, then b after the space.
    size = len(LETTERS)
    model = Repeater()
    with torch.no_grad():
        model.table.copy_(torch.zeros(size, size))
        model.table[LETTERS.index("a"), LETTERS.index(" ")] = 5
        model.table[LETTERS.index(" "), LETTERS.index("b")] = 5
    write(tmp_path, "lambada", {"context": "a", "target": "b"}, {"context": "a", "target": "c"})
    assert evaluate(model, Letters(), "lambada", data=tmp_path)["lambada"]["acc"] == 0.5


def test_blimp_per_paradigm_field_and_mean(tmp_path: Path) -> None:
    write(
        tmp_path, "blimp",
        {"good": "a", "bad": "b", "paradigm": "p", "field": "f"},
        {"good": "b", "bad": "a", "paradigm": "p", "field": "f"},
        {"good": "a", "bad": "c", "paradigm": "q", "field": "f"},
        {"good": "c", "bad": "b", "paradigm": "r", "field": "g"},
    )  # fmt: skip
    scores = evaluate(Unigram({"a": -1.0, "b": -2.0, "c": -2.0}), Letters(), "blimp", data=tmp_path)["blimp"]
    assert scores["groups"] == {
        "paradigm": {"p": 0.5, "q": 1.0, "r": 0.0},
        "field": {"f": pytest.approx(2 / 3), "g": 0.0},
    }
    assert scores["acc"] == 0.5  # the tie c against b is not above
    with pytest.raises(UserError, match="shots: got 2, need 0 for blimp"):
        evaluate(Unigram({}), Letters(), "blimp", shots=2, data=tmp_path)


def test_blimp_sentences_follow_the_prefix_token_and_a_space(tmp_path: Path) -> None:
    write(tmp_path, "blimp", {"good": "ab", "bad": "ba"})
    seen: list[list[int]] = []

    class Recorder(Unigram):
        def forward(self, ids_BS: Tensor) -> Tensor:
            seen.extend(ids_BS.tolist())
            return super().forward(ids_BS)

    evaluate(Recorder({}), Letters(), "blimp", data=tmp_path)
    assert sorted(seen) == sorted([Letters().encode("\0 a"), Letters().encode("\0 b")])


def test_truncated_texts_are_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        "piqa",
        {"context": "a" * 20, "choices": ["b", "bcdefgh"], "gold": 0},
        {"context": "a", "choices": ["b", "c"], "gold": 0},
    )
    assert evaluate(Unigram({}), Letters(), "piqa", data=tmp_path)["piqa"]["truncated"] == 0
    assert evaluate(Unigram({}), Letters(), "piqa", data=tmp_path, max_len=8)["piqa"]["truncated"] == 2
    assert evaluate(Unigram({}), Letters(), "piqa", data=tmp_path, max_len=22)["piqa"]["truncated"] == 1


def test_shots_come_from_the_shots_file_or_the_other_rows(tmp_path: Path) -> None:
    contexts: list[str] = []

    class Spy(Letters):
        def encode(self, text: str) -> list[int]:
            contexts.append(text)
            return super().encode(text)

    rows = [{"context": f"{i}:", "choices": ["a", "b"], "gold": 0} for i in range(3)]
    write(tmp_path, "piqa", *rows)
    scores = evaluate(Unigram({}), Spy(), "piqa", shots=2, data=tmp_path, limit=1)["piqa"]
    assert scores["shots"] == 2
    assert set(contexts) <= {f"{i}: a\n\n{j}: a\n\n0:{c}" for i, j in ((1, 2), (2, 1)) for c in ("", " a", " b")}
    contexts.clear()
    write(tmp_path, "piqa_shots", {"context": "9:", "choices": ["a", "b"], "gold": 1})
    evaluate(Unigram({}), Spy(), "piqa", shots=1, data=tmp_path)
    assert all(text.startswith("9: b\n\n") for text in contexts)


# Generated answers


def scripted(replies: dict[str, str]):  # type: ignore[no-untyped-def]
    """Greedy generation that answers by the end of the prompt, a few tokens at a time, then eos."""
    letters, log = Letters(), []

    def run(prompts: list[list[int]], max_new_tokens: int, stop: Sequence[int]) -> list[list[int]]:
        out = []
        for prompt in prompts:
            text = letters.decode(prompt)
            log.append((text, max_new_tokens))
            key = max((k for k in replies if k in text), key=lambda k: text.rindex(k))
            done = text[text.rindex(key) + len(key) :]
            rest = letters.encode(replies[key][len(done) :])
            out.append([*rest, *stop][:max_new_tokens])
        return out

    run.log = log  # type: ignore[attr-defined]
    return run


def test_gsm8k_compares_the_number_after_the_hashes(tmp_path: Path) -> None:
    write(
        tmp_path, "gsm8k",
        {"question": "1 and 2?", "answer": "it is\n#### 1,003"},
        {"question": "3 and 4?", "answer": "it is\n#### 7"},
        {"question": "5 and 6?", "answer": "it is\n#### 11"},
    )  # fmt: skip
    replies = {
        "1 and 2?\nAnswer:": " so\n#### 1003",
        "3 and 4?\nAnswer:": " seven, 7",
        "5 and 6?\nAnswer:": " #### 12\n\nQ: #### 11",
    }
    task = Task("gsm8k", "number", stop=("Q:",), max_new_tokens=64)
    scores = evaluate(Unigram({}), Letters(), [task], data=tmp_path, generate=scripted(replies))["gsm8k"]
    assert scores["acc"] == pytest.approx(1 / 3)
    assert scores["acc_norm"] is scores["acc_bytes"] is scores["ppl"] is None
    assert scores["n"] == 3


def test_generated_answers_ignore_case_and_punctuation() -> None:
    task = TASKS["triviaqa"]
    assert is_answer(task, " The U.S.A. ", ("the usa",))
    assert is_answer(task, "paris", ("Rome", "Paris"))
    assert not is_answer(task, "paris texas", ("Paris",))
    assert is_answer(TASKS["gsm8k"], "#### 1,000.", ("1000",))
    assert not is_answer(TASKS["gsm8k"], "1000", ("1000",))


def test_a_model_that_cannot_generate_says_so(tmp_path: Path) -> None:
    write(tmp_path, "webqs", {"question": "who?", "answers": ["me"]})
    with pytest.raises(NotAvailable, match="model: Unigram has no generation here; pass generate="):
        evaluate(Unigram({}), Letters(), "webqs", data=tmp_path)


# The paper's table


def test_paper_table_has_thirteen_rows_and_says_why_one_is_absent(tmp_path: Path) -> None:
    rows = [{"context": f"{i}:", "choices": ["a", "b"], "gold": i % 2} for i in range(8)]
    for name in ("arc_easy", "piqa", "mmlu"):
        write(tmp_path, name, *rows)
    write(tmp_path, "webqs", *({"question": f"{i}?", "answers": ["me"]} for i in range(3)))
    table = evaluate_paper(Unigram({"a": -1.0}), Letters(), data=tmp_path)
    cells = {row["task"]: row for row in table.as_dicts()}
    assert len(cells) == 13
    assert cells["arc_easy"]["acc"] == cells["mmlu"]["acc"] == 0.5
    assert (cells["arc_easy"]["shots"], cells["mmlu"]["shots"], cells["gsm8k"]["shots"]) == (0, 5, 8)
    assert cells["hellaswag"]["acc"] is None
    assert "no data in" in cells["hellaswag"]["reason"]
    assert "no generation" in cells["webqs"]["reason"]
    assert {row["paper"] for row in table.as_dicts()} == {"n/a"}
    assert table.average(0) == (0.5, 2, 9)
    assert table.average(1) == (None, 0, 2)
    text = str(table)
    assert "0-shot mean" in text
    assert "over 2 of 9 tasks" in text
    assert text.count("no data in") == 9


def test_bad_rows_are_errors_in_the_table_too(tmp_path: Path) -> None:
    write(tmp_path, "arc_easy", {"context": "1:", "choices": ["a", "b"], "gold": 5})
    with pytest.raises(UserError, match=r"arc_easy\.jsonl:1: gold: got 5"):
        evaluate_paper(Unigram({}), Letters(), data=tmp_path)


def test_unknown_task_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"task: got 'arcx', need one of arc_challenge"):
        evaluate(Unigram({}), Letters(), ["arcx"])


def test_harness_model_stands_here_too() -> None:
    assert harness_model.__module__ == "tenfold.lm.harness"


class Bytes:
    bos_id = 0

    def encode(self, text: str) -> list[int]:
        return [b + 1 for b in text.encode()]


class Noise(nn.Module):
    """A random bigram model over bytes."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.randn(257, 257, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.table = nn.Parameter(table.log_softmax(-1))

    def forward(self, ids_BS: Tensor) -> Tensor:
        return self.table[ids_BS]


@pytest.mark.parametrize("name", ["arc_easy", "boolq", "winogrande", "lambada", "blimp"])
def test_prepared_sets_against_a_plain_loop(data_dir: Path, name: str) -> None:
    model = Noise()
    table = model.table.tolist()

    def logp(context: str, continuation: str) -> float:
        ids = [0] * (context == "") + Bytes().encode(context + continuation)
        start = len(ids) - len(Bytes().encode(continuation))
        return sum(table[a][b] for a, b in zip(ids[start - 1 : -1], ids[start:], strict=True))

    file = data_dir / "05-moe-vs-dense" / f"{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    right, normed, sums = [], [], []
    for row in rows[:10] if name == "blimp" else rows[:40]:
        if name == "blimp":
            right.append(logp("", " " + row["good"]) > logp("", " " + row["bad"]))
        elif name == "winogrande":
            scores = [logp(context, " " + row["continuation"]) for context in row["contexts"]]
            right.append(scores.index(max(scores)) == row["gold"])
        elif name == "lambada":
            sums.append(logp(row["context"], " " + row["target"]))
        else:
            scores = [logp(row["context"], " " + choice) for choice in row["choices"]]
            right.append(scores.index(max(scores)) == row["gold"])
            scores = [score / len(choice) for score, choice in zip(scores, row["choices"], strict=True)]
            normed.append(scores.index(max(scores)) == row["gold"])
    limit = 670 if name == "blimp" else 40  # ten of each paradigm
    got = evaluate(model, Bytes(), name, limit=limit, data=data_dir)[name]
    if name == "lambada":
        assert got["ppl"] == pytest.approx(math.exp(-sum(sums) / 40), rel=1e-9)
    elif name == "blimp":
        assert len(got["groups"]["paradigm"]) == 67
        assert {row["paradigm"] for row in rows[:10]} == {"adjunct_island"}
        assert got["groups"]["paradigm"]["adjunct_island"] == pytest.approx(sum(right) / 10)
    else:
        assert got["acc"] == pytest.approx(sum(right) / 40)
    if normed:
        assert got["acc_norm"] == pytest.approx(sum(normed) / 40)


@pytest.mark.slow
def test_a_real_model_is_well_above_chance(data_dir: Path, smollm2_file: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
    model = Decoder.from_pretrained(smollm2_file, dtype=torch.float32)
    arc = evaluate(model, tokenizer, "arc_easy", limit=40, data=data_dir)["arc_easy"]
    lambada = evaluate(model, tokenizer, "lambada", limit=40, data=data_dir)["lambada"]
    blimp = evaluate(model, tokenizer, "blimp", limit=67, data=data_dir)["blimp"]  # one of each paradigm
    # SmolLM2-135M-Instruct at four bits gave 0.475, 0.300 (perplexity 36) and 0.746.
    assert arc["acc"] == pytest.approx(0.475, abs=0.05)
    assert lambada["acc"] == pytest.approx(0.300, abs=0.05)
    assert lambada["ppl"] == pytest.approx(36.0, rel=0.02)
    assert blimp["acc"] == pytest.approx(0.746, abs=0.04)
