"""Using a model: chat, eval, export and serve, from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch

from tenfold.cli import main
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.gguf import read_gguf_tokenizer
from tenfold.text.tokenizer import train_tokenizer

WORDS = "the cat sat on a mat and saw one more dog run far away from home "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model without training, and its tokenizer."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([WORDS * 20], 300)
    cfg = DecoderConfig(tokenizer.vocab_size, 32, 2, 4, 2, 8, 48, max_len=256)
    Decoder(cfg, torch.Generator().manual_seed(0)).save_pretrained(path)
    tokenizer.save(path)
    return path


def tenfold(*words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tenfold", *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


def test_a_piped_question_gets_an_answer(folder: Path) -> None:
    said = tenfold("afm", "chat", folder, "--seed", 1, "--max-tokens", 12, stdin="Where is the cat?\n")
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()
    again = tenfold("afm", "chat", folder, "--seed", 1, "--max-tokens", 12, stdin="Where is the cat?\n")
    assert again.stdout == said.stdout


def test_nothing_piped_is_an_error(folder: Path) -> None:
    said = tenfold("afm", "chat", folder)
    assert said.returncode == 2
    assert "no question" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_perplexity_of_a_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "words.txt"
    text.write_text(WORDS * 10)
    assert main(["afm", "eval", str(folder), "--tasks", "perplexity", "--text", str(text)]) == 0
    assert "words.txt" in capsys.readouterr().out


def test_a_few_items_of_every_task(
    folder: Path, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["afm", "eval", str(folder), "--tasks", "gsm8k", "ifeval", "bfcl", "--limit", "2", "--max-tokens", "4"]
    assert main([*command, "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "prompt_strict" in out
    assert "ast" in out
    kept = {file.name: file.read_bytes() for file in tmp_path.glob("*.jsonl")}
    assert set(kept) == {"gsm8k.jsonl", "ifeval.jsonl", "bfcl.jsonl"}
    assert main([*command, "--results", str(tmp_path)]) == 0  # every reply is there already
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.jsonl")} == kept


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_export_reads_back(folder: Path, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "model.gguf"
    assert main(["afm", "export", str(folder), str(out), "--dtype", dtype]) == 0
    ids = torch.arange(10).unsqueeze(0)
    expected = Decoder.from_pretrained(folder).eval()(ids)
    assert (Decoder.from_pretrained(out, dtype=torch.float32).eval()(ids) - expected).abs().max() <= {
        "f32": 0,
        "f16": 1e-2,
        "q8_0": 0.2,
    }[dtype]
    assert read_gguf_tokenizer(out).encode("the cat") == train_tokenizer([WORDS * 20], 300).encode("the cat")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["chat", "/nowhere"], "checkpoint not found: /nowhere; give a folder"),
        (["export", "{folder}", "model.bin"], "need a name that ends in .gguf"),
        (["eval", "{folder}", "--limit", "0"], "limit: got 0"),
        (["eval", "{folder}", "--text", "/nowhere.txt", "--tasks", "perplexity"], "text not found: /nowhere.txt"),
        (["serve", "{folder}", "--host", "0.0.0.0"], "set an API key"),
        (["serve", "{folder}", "--port", "99999"], "port"),
    ],
)
def test_bad_input(folder: Path, command: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.format(folder=folder) for word in command]
    assert main(["afm", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.fixture
def served(smollm2_file: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tenfold", "afm", "serve", "--port", "0", "--api-key", "k"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)
        yield line[line.index("http://") :].split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)


@pytest.mark.slow
def test_the_official_client_streams_a_chat_with_a_real_model(served: str) -> None:
    with openai.OpenAI(base_url=served, api_key="k", max_retries=0, timeout=300) as client:
        assert [model.id for model in client.models.list()] == ["smollm2-135m-instruct"]
        stream = client.chat.completions.create(
            model="smollm2-135m-instruct",
            messages=[{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
            max_tokens=40,
            temperature=0,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "Paris" in "".join(pieces)
    assert sum(map(bool, pieces)) > 3
