"""Own pictures with captions as what a model is trained on."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.cli import main
from tenfold.recipes.mm1 import Config
from tenfold.recipes.mm1.config import Data, Mix
from tenfold.recipes.mm1.documents import mixture


def test_own_pictures_with_captions_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        Image.fromarray(np.full((20, 20, 3), 60 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"gray {{number}} {number}")
    config = Config(data=Data(captions=("files",), path=tmp_path))
    documents = list(islice(mixture(config, Mix.parse("100/0/0"), 0), 12))
    assert {document[1]["text"] for document in documents} == {f"A photo of gray {{number}} {n}" for n in range(4)}
    for words in (["--data.captions", "files"], ["--data.path", str(tmp_path)]):
        assert main(["mm1", "train", "tiny", *words, "--runs-dir", str(tmp_path / "runs")]) == 2
        assert "--data.captions files --data.path MY" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
