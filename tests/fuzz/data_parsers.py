"""What reads data sets: JSON, tables, archives, pictures, arrays."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from parsers import Parser, file, folder
from PIL import Image

from tenfold.align.preference_data import read_preferences
from tenfold.align.safety_categories import read_categories
from tenfold.align.safety_requests import read_requests
from tenfold.align.verifiers import read_tasks
from tenfold.clinical.cohort_words import read_codes
from tenfold.clinical.events import EventSpec
from tenfold.clinical.long_table import read_long_table
from tenfold.clinical.meds import read_labels, read_meds
from tenfold.clinical.mimic3 import TABLES, read_mimic3
from tenfold.clinical.physionet2012 import read_physionet2012, write_npz
from tenfold.games.files import load_lexicon, load_official_games, load_sft, load_target_words, load_training_rows
from tenfold.games.game import Episode, Turn, Verdict
from tenfold.games.prompts import PromptPack
from tenfold.games.store import TranscriptStore, row_of
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.neo4j import read_neo4j
from tenfold.graph.readers import read_rdf, read_triples
from tenfold.lm import bfcl, ifeval, tasks
from tenfold.prompts.task_files import load_table
from tenfold.recipes.afm.corpus import grade_school_maths
from tenfold.recipes.mm1.documents import _shard_captions
from tenfold.text.corpus import load_texts
from tenfold.text.decontaminate import read_items
from tenfold.text.token_file import read_tokens, write_tokens
from tenfold.tools import formats
from tenfold.tools.calls import Call
from tenfold.tools.data import read_tools
from tenfold.tools.samples import Candidate, DecisionSample, read_samples
from tenfold.vision import instructions
from tenfold.vision.answer_files import read_coco_captions, read_vqa
from tenfold.vision.document_readers import read_llava, read_mmc4, read_obelics, read_texts
from tenfold.vision.emoji import read_emoji, read_emoji_shard
from tenfold.vision.geneval import read_metadata
from tenfold.vision.image_text import open_image_text
from tenfold.vision.images import decode
from tenfold.vision.interleaved import EmojiNames


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def packed(content: str) -> bytes:
    return gzip.compress(content.encode(), mtime=0)


def picture(form: str = "PNG", side: int = 8, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    pixels = np.arange(side * side * len(mode), dtype=np.uint8).reshape(side, side, len(mode))
    Image.fromarray(pixels, mode).save(buffer, form)
    return buffer.getvalue()


def tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def pairs(root: Path) -> list[Any]:
    return list(open_image_text(root, 4))


# Clinical tables.

DEATH = EventSpec("death", 24.0, 5)
MEASURED = "id,time,variable,value\na,0,HR,80\na,1.5,HR,90\na,1.25,Drug,\nb,1,Temp,37\nc,0,HR,60\n"
OUTCOMES = "id,trigger,death_hours,death_observed,age\na,2,30,1,50\nb,2,5,0,\nc,0,,,70\n"
STAY = (
    "Time,Parameter,Value\n00:00,RecordID,5\n00:00,Age,60\n00:00,Gender,1\n00:00,Height,-1\n00:00,ICUType,3\n"
    "00:00,Weight,80\n01:30,HR,80\n"
)
CHALLENGE = {
    "set-a/5.txt": STAY,
    "Outcomes-a.txt": "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n5,6,1,5,-1,0\n",
}
MIMIC = {
    "PATIENTS": "ROW_ID,SUBJECT_ID,GENDER,DOB,DOD\n1,10,M,2090-03-10 00:00:00,\n",
    "ADMISSIONS": "ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,DEATHTIME\n1,10,100,2150-03-10 03:00:00,\n",
    "ICUSTAYS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,INTIME,OUTTIME\n1,10,100,1000,2150-03-10 08:00:00,2150-03-13 16:00:00\n",
    "CHARTEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,ERROR\n1,10,100,1000,211,2150-03-10 08:30:00,80,80,\n",
    "LABEVENTS": "ROW_ID,SUBJECT_ID,HADM_ID,ITEMID,CHARTTIME,VALUE,VALUENUM\n1,10,100,50912,2150-03-10 10:00:00,1.0,1.0\n",
    "INPUTEVENTS_CV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,CHARTTIME,ITEMID,AMOUNT,RATE\n1,10,100,1000,2150-03-10 13:30:00,30120,,0.1\n",
    "INPUTEVENTS_MV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTTIME,ENDTIME,ITEMID,AMOUNT,STATUSDESCRIPTION\n1,10,100,1000,2150-03-10 18:15:00,2150-03-10 20:30:00,221906,5,FinishedRunning\n",
    "PROCEDUREEVENTS_MV": "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,STARTTIME,ENDTIME,ITEMID,VALUE,STATUSDESCRIPTION\n1,10,100,1000,2150-03-10 05:00:00,2150-03-10 10:00:00,225792,5,FinishedRunning\n",
}
assert set(MIMIC) == set(TABLES)
NOON = datetime.datetime(2030, 5, 1, 12)
CODES = {"HR": ["LAB//HR"], "drug": ["DRUG"], "kidney": ["KIDNEY"], "age": ["AGE"]}


def after(hours: float) -> datetime.datetime:
    return NOON + datetime.timedelta(hours=hours)


def records() -> bytes:
    rows = [(None, "AGE", 50.0), (after(-1e6), "MEDS_BIRTH", None), (after(0), "LAB//HR", 80.0), (after(1.5), "DRUG", None), (after(5), "KIDNEY", None)]  # fmt: skip
    return parquet(
        subject_id=pa.array([1] * len(rows), pa.int64()),
        time=pa.array([row[0] for row in rows], pa.timestamp("us")),
        code=pa.array([row[1] for row in rows], pa.string()),
        numeric_value=pa.array([row[2] for row in rows], pa.float32()),
    )


def labels() -> bytes:
    return parquet(subject_id=[1], prediction_time=[after(3)])


def long_table(root: Path) -> Any:
    return read_long_table(root / "m.csv", [DEATH], root / "o.csv", interventions=["Drug"], statics=["age"], steps=2, scaling={})  # fmt: skip


def meds(root: Path) -> Any:
    events = (EventSpec("kidney", 2.0, 3),)
    return read_meds(root, CODES, events, interventions=["drug"], statics=["age"], labels=root / "l.parquet", steps=2, scaling={})  # fmt: skip


def physionet_npz(root: Path) -> None:
    folder("PhysioNet", CHALLENGE, read_physionet2012).make(root)
    stays = read_physionet2012(root)
    for path in sorted(root.rglob("*.txt")):
        path.unlink()
    write_npz(stays, root / "physionet2012_a.npz")


# Graphs.

TRIPLES = "a\tlikes\tb\nb\tlikes\tc\nc\tknows\ta\n"
TURTLE = "@prefix e: <http://e/> .\ne:a e:likes e:b .\ne:b e:likes e:c, 'x' .\n"


def graph(root: Path) -> None:
    KnowledgeGraph.from_triples([("a", "likes", "b"), ("b", "knows", "c")], test=[("a", "knows", "c")]).save(root / "g.npz")  # fmt: skip


# Language.

GAMES = [{"history": [{"role": "attacker", "content": "It grows."}, {"role": "defender", "content": "A pear?"}], "target_word": "apple", "max_turns": 5}]  # fmt: skip
FUNCTION = {"name": "geo.f", "description": "d", "parameters": {"type": "dict", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}  # fmt: skip
GAME = Episode("1", "adversarial_taboo", {"target_word": "apple"}, 0, {"attacker": "a"}, (Turn("attacker", "x", 3, 2, -1.5, "length"),), Verdict("tied game", 1, "w", (0, 1)))  # fmt: skip
TABOO = {"prompt": "Reveal it.", "category": "secrets"}
SAMPLE = DecisionSample("three cats", "call", (Candidate("cat", "finds cats", "cat(n: int)"),), "cat", Call("cat", {"n": 3}), "meow", "Three.")  # fmt: skip
TOOL = {"api_function": "cat(n: int = 3) -> str", "api_name": "cat", "description_for_model": "finds cats", "description_for_human": "cats", "queries": ["three cats"], "api_calls": ["cat(n=3)"]}  # fmt: skip
QUESTIONS = {
    "choices": ("copa", {"context": "c", "choices": ["x", "y"], "gold": 1, "subject": "s"}),
    "contexts": ("winogrande", {"contexts": ["x", "y"], "continuation": "z", "gold": 0}),
    "word": ("lambada", {"context": "a", "target": "b"}),
    "pair": ("blimp", {"good": "a", "bad": "b", "paradigm": "p", "field": "f"}),
    "answers": ("webqs", {"question": "q", "answers": ["a", "b"]}),
    "number": ("gsm8k", {"question": "q", "answer": "So. #### 7"}),
}


def categories() -> str:
    from tenfold.align.safety_categories import SHIPPED_CATEGORIES

    return SHIPPED_CATEGORIES.read_text(encoding="utf-8")


PACK = {
    "rules": ["Rules.", "Other rules."], "start": "Begin.", "history_header": "So far:", "line": "{role}: {text}",
    "instruction": {"attacker": "Make it say {target_word}.", "defender": "Guess."}, "cue": "Say:",
}  # fmt: skip


def games(path: Path) -> Any:
    with contextlib.closing(TranscriptStore(path, read_only=True)) as store:
        return list(store)


def emoji_files(root: Path) -> None:
    row = {"i": 0, "emoji": "x", "code": "1f600", "name": "grin", "group": "g", "subgroup": "s", "heldout": None}
    (root / "e.jsonl").write_text(lines(row, {**row, "i": 1, "heldout": "google"}))
    drawings = np.zeros((2, 4, 4, 4), np.uint8)
    np.savez_compressed(root / "e.npz", google=drawings, twitter=drawings)


EMOJI = {"hexcode": "1F600", "char": "x", "group": "g", "subgroup": "s", "name": {"en": "grin"}, "keywords": ["k"]}
EMOJI_SHARD = tar({"a.google.webp": picture("WEBP", mode="RGBA"), "a.twitter.webp": picture("WEBP", mode="RGBA"), "a.json": json.dumps(EMOJI).encode()})  # fmt: skip
OBELICS = {"images": ["a.png", None], "texts": [None, "x"]}
MMC4 = {"text_list": ["x", "y"], "image_info": [{"image_name": "a.png", "matched_text_index": 1}]}
LLAVA = [{"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]}]  # fmt: skip
GENEVAL = {"tag": "counting", "include": [{"class": "circle", "count": 2, "color": "red", "position": None}], "exclude": [{"class": "circle", "count": 3}], "prompt": "two circles"}  # fmt: skip


def easy(root: Path) -> Any:
    instructions._EASY.clear()  # it remembers what it has read
    return instructions.easy_questions(str(root.parent), "train")


def write_samples_as(form: formats.FileFormat, root: Path) -> None:
    formats.export([SAMPLE], root / "s", form)


def read_samples_as(form: formats.FileFormat, root: Path) -> Any:
    return formats.read(root / "s", form)


def question(kind: str) -> Parser:
    name, row = QUESTIONS[kind]
    read: Callable[[Path], Any] = lambda root: tasks.load(name, root)  # noqa: E731
    return folder(f"rows of {kind}", {f"{name}.jsonl": lines(row, row)}, read)


PARSERS: list[Parser] = [
    file("texts", "One.\n\nTwo é.\n", lambda p: load_texts([p], max_bytes=1 << 20), "a.txt"),
    file("texts in JSON lines", lines({"text": "One."}, {"text": "Two."}), lambda p: load_texts([p], max_bytes=1 << 20), "a.jsonl"),
    file("texts, packed", packed("One.\n\nTwo.\n"), lambda p: load_texts([p], max_bytes=1 << 20), "a.txt.gz"),
    file("lines of text, packed", packed("One.\nTwo.\n"), read_texts, "a.txt.gz"),
    file("items of a benchmark", lines({"question": "a b c"}), lambda p: read_items(p, "question")),
    folder("tokens", lambda root: write_tokens(root / "a.bin", [range(9), range(3)], 100), lambda root: read_tokens(root / "a.bin", vocab_size=100)),
    *map(question, QUESTIONS),
    folder("rows of word, packed", {"lambada.jsonl.gz": packed(lines({"context": "a", "target": "b"}))}, lambda root: tasks.load("lambada", root)),
    file("GSM8K, packed", packed(lines({"question": "q", "answer": "<<1+1=2>>2 #### 2"})), grade_school_maths, "a.jsonl.gz"),
    file("IFEval", lines({"key": 7, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}), ifeval.load),
    folder("BFCL", {"q.jsonl": lines({"id": "q", "question": [[{"role": "user", "content": "x"}]], "function": [FUNCTION]}), "a.jsonl": lines({"id": "q", "ground_truth": [{"geo.f": {"a": [1]}}]})}, lambda root: bfcl.load(root / "q.jsonl", root / "a.jsonl")),
    file("preferences", lines({"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": [{"role": "user", "content": "x"}], "chosen": "a", "rejected": "b"}), read_preferences),
    file("tasks with answers", lines({"prompt": "p", "answer": "#### 7"}), read_tasks),
    file("requests", lines(TABOO, {**TABOO, "expect": "refuse", "secret": "a7316"}), lambda p: read_requests(p, read_categories())),
    file("categories", categories(), read_categories, "c.json"),
    file("target words", "apple\npear\n", load_target_words, "w.txt"),
    file("a lexicon", lines({"word": "apple", "clues": ["fruit"]}), load_lexicon),
    file("a pack of prompts", json.dumps(PACK), PromptPack.load, "p.json"),
    file("stored games", lines(row_of(GAME)), games, "g.jsonl"),
    file("games of the authors", json.dumps(GAMES), load_official_games, "g.json"),
    file("rows of training", lines({"query": "q", "target": "t", "reward": 1.0, "role": "attacker", "weight": 0.5}), load_training_rows),
    file("rows of fine-tuning", lines({"instruction": "i", "input": "", "output": "o"}, {"instruction": "i", "instances": [{"input": "x", "output": "y"}]}), load_sft),
    file("samples of decisions", lines(SAMPLE.to_json()), read_samples),
    *(folder(f"samples as {form}", partial(write_samples_as, form), partial(read_samples_as, form)) for form in get_args(formats.FileFormat)),
    file("a catalogue of tools", lines(TOOL), read_tools),
    file("a task's table", "input,target\n" + "".join(f"q{i},{i % 3}\n" for i in range(12)), load_table, "t.csv"),
    file("a task's lines", lines(*({"input": f"q{i}", "target": str(i % 3)} for i in range(12))), load_table, "t.jsonl"),
    folder("a table of measurements", {"m.csv": MEASURED, "o.csv": OUTCOMES}, long_table),
    folder("PhysioNet", CHALLENGE, read_physionet2012),
    folder("PhysioNet, arrays", physionet_npz, read_physionet2012),
    folder("MIMIC-III", {f"{name}.csv": table for name, table in MIMIC.items()}, read_mimic3, slow=True),
    folder("MEDS", {"data/0.parquet": records(), "l.parquet": labels()}, meds),
    file("labels of MEDS", labels(), read_labels, "l.parquet"),
    file("codes of MEDS", json.dumps(CODES), read_codes, "c.json"),
    file("triples", TRIPLES, read_triples, "t.tsv"),
    file("triples, packed", packed(TRIPLES), read_triples, "t.tsv.gz"),
    file("triples of a graph", TRIPLES, lambda p: KnowledgeGraph.from_tsv(p), "t.tsv"),
    file("RDF", TURTLE, read_rdf, "g.ttl"),
    folder("Neo4j", {"n.csv": ":ID,name\n1,a\n2,b\n", "r.csv": ":START_ID,:END_ID,:TYPE\n1,2,likes\n"}, lambda root: read_neo4j(root / "n.csv", root / "r.csv")),
    folder("a saved graph", graph, lambda root: KnowledgeGraph.load(root / "g.npz")),
    *(file(f"a picture as {form}", picture(form), lambda p: decode(p.read_bytes(), "p", max_pixels=1 << 16), "p") for form in ("PNG", "JPEG", "WEBP")),
    folder("pictures in a folder", {"a.png": picture(), "a.txt": "a cat"}, pairs),
    folder("pictures with metadata", {"a.png": picture(), "metadata.jsonl": lines({"file_name": "a.png", "text": "a cat"})}, pairs),
    folder("a shard of pictures", {"0.tar": tar({"a.png": picture(), "a.txt": b"a cat", "b.png": picture(), "b.json": b'{"text": "a dog"}'})}, pairs),
    folder("emoji", emoji_files, lambda root: read_emoji(root / "e.npz", root / "e.jsonl")),
    file("a shard of emoji", EMOJI_SHARD, read_emoji_shard, "e.tar"),
    file("names in a shard of emoji", EMOJI_SHARD, EmojiNames.read, "e.tar"),
    file("easy-VQA", json.dumps([["q", "a", 1]]), lambda p: easy(p.parent), "train/questions.json"),
    file("captions of a shard", tar({"a.webp": picture("WEBP"), "a.json": b'{"title": "x"}', "b.webp": picture("WEBP"), "b.json": b'{"caption": {"en": "y"}}'}), _shard_captions, "e.tar"),
    file("OBELICS", lines(OBELICS), read_obelics),
    file("MMC4", lines(MMC4), read_mmc4),
    file("LLaVA", json.dumps(LLAVA), read_llava, "l.json"),
    folder("VQAv2", {"q.json": json.dumps({"questions": [{"question_id": 1, "image_id": 2, "question": "q"}]}), "a.json": json.dumps({"annotations": [{"question_id": 1, "answers": [{"answer": "x"}]}]})}, lambda root: read_vqa(root / "q.json", root / "a.json")),
    file("captions of COCO", json.dumps({"annotations": [{"image_id": 1, "caption": "x"}]}), read_coco_captions, "c.json"),
    file("prompts of GenEval", lines(GENEVAL), read_metadata),
]  # fmt: skip
