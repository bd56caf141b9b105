"""What a user does with a trained model: ask it, score it, vary it, plan its size; and the report of a run anew."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json, need
from tenfold.core.errors import UserError, printable
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.lr_law import fit_lr_law, learning_rate
from tenfold.nn.moe_config import MoEConfig
from tenfold.recipes.mm1 import published
from tenfold.recipes.mm1.config import Config
from tenfold.recipes.mm1.find_model import find_model
from tenfold.recipes.mm1.training import FIELDS, Job, Row
from tenfold.vision.answer_files import read_coco_captions, read_vqa, write_answers, write_captions
from tenfold.vision.cider import cider
from tenfold.vision.connectors import build_connector
from tenfold.vision.interleaved import CAPTION_PROMPT, STOPS, VQA_PROMPT
from tenfold.vision.llava_format import save_llava
from tenfold.vision.multimodal import MultimodalLM
from tenfold.vision.multimodal_generate import generate
from tenfold.vision.picture_refs import read_file
from tenfold.vision.vit import ViT, ViTConfig
from tenfold.vision.vqa_accuracy import Normalise, vqa_accuracy


def chat(
    model: Path,
    /,
    image: tuple[Path, ...] = (),
    question: str | None = None,
    max_new: int = 32,
    temperature: float = 0.0,
    hires_last: int | None = None,
) -> None:
    """Ask about pictures: one question (--question), or questions from standard input, one a line.

    Args:
        model: a run folder, a model folder of one, or a LLaVA folder.
        image: picture files, shown in this order; several may be given.
        question: asked once; none: every line of standard input is a question.
        max_new: most tokens of an answer.
        temperature: of the sampling; 0 takes the likeliest.
        hires_last: only so many last pictures are cut into tiles.
    """
    need("--max-new", max_new, 1)
    need("--temperature", temperature, 0)
    if question is not None and not question.strip():
        raise UserError("--question: got an empty one, need a question")
    opened = find_model(model)
    pictures = [{"image": read_file(path)} for path in image]
    for path, picture in zip(image, pictures, strict=True):
        _check_picture(path, picture["image"], opened)
    asked = [question] if question is not None else _typed(sys.stdin)
    for each in asked:
        text = {"text": VQA_PROMPT.format(question=each.strip())}
        answers = generate(opened, [[*pictures, text]], max_new, ("\n", "Question"), temperature, hires_last=hires_last)
        print(printable(answers[0].text.strip()) or "(no answer)", flush=True)


def eval_(
    model: Path,
    /,
    task: Literal["vqa", "caption"] = "vqa",
    questions: Path | None = None,
    annotations: Path | None = None,
    images: Path = Path("."),
    pattern: str = "{image_id}.png",
    out: Path = Path("eval"),
    normalise: Normalise = "always",
    limit: int | None = None,
) -> None:
    """Score a model on your own files: VQAv2 questions and annotations, or COCO captions.

    Args:
        model: a run folder, a model folder of one, or a LLaVA folder.
        task: vqa or caption.
        questions: VQAv2's questions file; not for captions.
        annotations: VQAv2's annotations, or COCO's captions.
        images: the folder of the pictures.
        pattern: of a picture's name in it.
        out: a folder for answers.json (or captions.json) and results.json, with every prompt.
        normalise: when answers lose punctuation, articles and number words: always, or as the official evaluation does.
        limit: the first so many.
    """
    if annotations is None or (task == "vqa" and questions is None):
        raise UserError("--annotations, --questions: need both for vqa, --annotations for caption")
    if task == "caption" and questions is not None:
        raise UserError(f"--questions: got {questions} with --task caption, which has none; leave it out")
    need("--limit", limit, 1)
    _picture_name(pattern, "1")
    opened = find_model(model)
    if task == "vqa":
        assert questions is not None
        asked = read_vqa(questions, annotations)[:limit]
        prompts = [VQA_PROMPT.format(question=each.question) for each in asked]
        ids: list[Any] = [each.image_id for each in asked]
    else:
        captions = dict(list(read_coco_captions(annotations).items())[:limit])
        ids = list(captions)
        prompts = [CAPTION_PROMPT] * len(ids)
    if not ids:
        raise UserError(
            f"{questions if task == 'vqa' else annotations}: holds no {'question' if task == 'vqa' else 'caption'}"
        )
    files = [images / _picture_name(pattern, _checked_id(each)) for each in ids]
    documents = [[{"image": str(file)}, {"text": prompt}] for file, prompt in zip(files, prompts, strict=True)]
    said = [printable(each.text.strip()) for each in generate(opened, documents, 32, STOPS[task])]
    if task == "vqa":
        scores = [vqa_accuracy(text, each.answers, normalise) for text, each in zip(said, asked, strict=True)]
        score = sum(scores) / len(scores)
        write_answers(out / "answers.json", {each.question_id: text for each, text in zip(asked, said, strict=True)})
        print(f"accuracy {score:.4f} over {len(asked)} questions")
    else:
        found = cider({str(i): captions[i] for i in ids}, {str(i): text for i, text in zip(ids, said, strict=True)})
        score, scores = found.score, found.per_image
        write_captions(out / "captions.json", dict(zip(ids, said, strict=True)))
        print(f"CIDEr {100 * score:.1f} over {len(ids)} pictures")
    rows = [
        {"image": str(file), "prompt": f"<image>{prompt}", "said": text, "score": one}
        for file, prompt, text, one in zip(files, prompts, said, scores, strict=True)
    ]
    about = {
        "model": str(model),
        "task": task,
        "normalise": normalise,
        "decoding": "greedy",
        "score": score,
        "rows": rows,
    }
    write_atomic(out / "results.json", json.dumps(about, ensure_ascii=False, indent=1) + "\n")
    print(out / "results.json")


def ablate(
    preset: str = "tiny",
    /,
    axes: tuple[str, ...] = ("connector", "tokens"),
    seeds: int = 3,
    steps: int | None = None,
    workers: int = 1,
    runs_dir: Path | None = None,
    resume: Path | None = None,
) -> None:
    """Vary a preset along axes and print a table beside the paper's figures; finished cells are not trained again.

    Args:
        preset: whose settings are varied.
        axes: of mix, connector, resolution, tokens, encoder, decoder.
        seeds: of each cell.
        steps: of pre-training; none: the preset's.
        workers: trainings side by side.
        runs_dir: where the run folder goes.
        resume: a run folder of an earlier call that goes on.
    """
    from tenfold.recipes.mm1.experiment import check, train
    from tenfold.recipes.mm1.findings import cell_table
    from tenfold.recipes.mm1.presets import PRESETS

    need("--seeds", seeds, 1)
    if resume is not None:
        run = Run.open(resume)
        config = from_json(Config, run.config, where=str(resume / "config.json"))
    else:
        if preset not in PRESETS:
            raise UserError(f"preset: got {preset!r}, need one of {', '.join(PRESETS)}")
        base = PRESETS[preset]
        if unknown := [axis for axis in axes if axis not in VALUES]:
            raise UserError(f"--axes: got {', '.join(unknown)}, need some of {', '.join(VALUES)}")
        pretrain = base.pretrain if steps is None else replace(base.pretrain, steps=steps)
        cells = tuple(f"{axis}={value}" for axis in axes for value in VALUES[axis])
        config = replace(base, cells=cells, seeds=tuple(range(seeds)), workers=workers, pretrain=pretrain)
        check(config)
        run = Run.create("mm1", f"ablate-{preset}", config, runs_dir, title="mm1: ablation")
    print(f"run: {run.path}", flush=True)
    train(config, run)
    lines = cell_table(config, [run.load_stage(Job(c, s).name, FIELDS) for c in config.cells for s in config.seeds])
    columns = list(dict.fromkeys(key for line in lines for key in line))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_atomic(run.path / "ablation.csv", buffer.getvalue())
    write_atomic(run.path / "ablation.json", json.dumps(lines, ensure_ascii=False, indent=1) + "\n")
    _print_table(
        lines, [c for c in columns if c == "cell" or c.startswith("mean") or c.startswith("text") or c == "paper"]
    )
    print(run.path / "ablation.csv")


VALUES = {
    "mix": ("45/45/10", "100/0/0", "0/90/10", "50/50/0", "control"),
    "connector": ("avg", "attn", "cabs"),
    "resolution": ("24", "48"),
    "tokens": ("1", "4", "9"),
    "encoder": ("1", "2", "4"),
    "decoder": ("dense", "moe"),
}


def report(run: Path, /) -> None:
    """Write the report of a run anew.

    Args:
        run: a run folder whose models are done.
    """
    from tenfold.recipes.mm1.experiment import wants_aim
    from tenfold.recipes.mm1.reporting import report as write_report

    opened = Run.open(run)
    config = from_json(Config, opened.config, where=str(run / "config.json"))
    jobs = [Job(cell, seed) for seed in config.seeds for cell in config.cells]
    left = [job.name for job in jobs if not opened.done(job.name)]
    if left:
        raise UserError(f"{run}: {len(left)} of {len(jobs)} models are not done; tenfold mm1 train --resume {run}")
    encoders = [opened.load_stage(f"clip-seed{seed}") for seed in config.seeds] if config.clip.steps else []
    drawers = [opened.load_stage(f"aim-seed{seed}") for seed in config.seeds] if wants_aim(config) else []
    write_report(config, opened, [opened.load_stage(job.name, FIELDS) for job in jobs], encoders, drawers)
    opened.finish()
    print(run / "report.html")


def export(model: Path, out: Path, /) -> None:
    """Write a model with connector mlp as a LLaVA folder that transformers opens.

    Args:
        model: a run folder, or a model folder of one.
        out: the folder.
    """
    save_llava(find_model(model), out)
    print(out)


def lr_law(points: tuple[str, ...] = (), /, parameters: tuple[float, ...] = (1.2e9, 2.9e9, 30e9)) -> None:
    """Fit ln η = a ln N + b on points N:η, or print the paper's law.

    Args:
        points: such as 9e6:6.7e-4, two or more; none: the paper's law.
        parameters: N, without embeddings, whose rates are printed.
    """
    law = fit_lr_law([_point(point) for point in points]) if points else (-0.4214, -0.5535)
    print(f"ln(rate) = {law[0]:.4f} ln(N) {law[1]:+.4f}" + ("" if points else "  (MM1, Equation 1)"))
    for count in parameters:
        need("--parameters", count, 0, above=True)
        print(f"{count:>16,.0f} weights  {learning_rate(count, law):.3g}")


def sizes(name: str | None = None, /) -> None:
    """Weights of the published sizes, built without memory.

    Args:
        name: 3b, 7b, 30b, 3b-moe64, 7b-moe32 or ablation; none: all.
    """
    if name is not None and name not in published.SIZES:
        raise UserError(f"size: got {name!r}, need one of {', '.join(published.SIZES)}")
    lines: list[Row] = []
    for each, shape in published.SIZES.items():
        if name in (None, each):
            lines.append({"size": each, **size_of(shape)})
    _print_table(lines, list(lines[0]))
    print(
        f"Decoder shapes are ours; ViT-H/14 at {published.PIXELS} pixels, C-Abstractor with {published.TOKENS} tokens as published."
    )


def size_of(shape: Row) -> Row:
    """Weights of a size in billions, and its learning rates by law and as used."""
    with torch.device("meta"):
        vision = ViT(ViTConfig("vit-h-14-378"))
        connector = build_connector("cabs", vision.cfg.dim, shape["dim"], published.TOKENS, vision.cfg.grid)
        moe = MoEConfig(shape["dim"], shape["ffn"], shape["experts"], dropless=True) if shape["experts"] else None
        head = shape["dim"] // shape["heads"]
        lm = Decoder(
            DecoderConfig(
                published.VOCABULARY,
                shape["dim"],
                shape["layers"],
                shape["heads"],
                shape["kv_heads"],
                head,
                shape["ffn"],
                qk_norm=False,
                tie_embeddings=True,
                max_len=published.CONTEXT,
                moe=moe,
                moe_every=shape["every"],
                moe_offset=shape["every"] - 1,
            )
        )
    parts = {"encoder": vision, "connector": connector}
    found: Row = {each: f"{sum(w.numel() for w in part.parameters()) / 1e9:.3f} B" for each, part in parts.items()}
    found["decoder"] = f"{lm.num_params(embedding=True) / 1e9:.2f} B"
    found["paper"] = f"{shape['billions']} B"
    found["active"] = f"{lm.num_active_params(embedding=True) / 1e9:.2f} B"
    found["rate by the law"] = f"{learning_rate(lm.num_active_params()):.3g}"
    found["rate used"] = f"{shape['lr']:.3g}"
    return found


def _check_picture(path: Path, content: bytes, model: MultimodalLM) -> None:
    """Read a picture once, so that what is wrong with it is said with its name."""
    from tenfold.vision.images import decode

    decode(content, str(path))
    if model.processor is None:
        raise UserError("model: it has no image processor; it reads no pictures")


def _typed(lines: Any) -> Any:
    """Questions as they are typed, blank lines left out."""
    if lines.isatty():
        print("Questions, one a line; an end of file (Ctrl-D) ends.", flush=True)
    return (line for line in lines if line.strip())


def _checked_id(value: Any) -> str:
    text = str(value)
    if "/" in text or "\\" in text or ".." in text:
        raise UserError(f"image_id: got {text!r:.60}, need a name without folders")
    return text


def _picture_name(pattern: str, image_id: str) -> str:
    try:
        name = pattern.format(image_id=image_id)
    except (KeyError, IndexError, ValueError, AttributeError):
        name = ""
    if image_id not in name:
        raise UserError(
            f"--pattern: got {pattern!r:.60}, need a name with {{image_id}} in it, such as {{image_id}}.png"
        )
    return name


def _point(text: str) -> tuple[float, float]:
    size, _, rate = text.partition(":")
    try:
        return float(size), float(rate)
    except ValueError:
        raise UserError(f"points: got {text!r}, need N:rate such as 9e6:6.7e-4") from None


def _print_table(lines: Sequence[Row], columns: Sequence[str]) -> None:
    cells = [[str(line.get(column, "")) for column in columns] for line in lines]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    for row in [list(columns), *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


VERBS = {
    "chat": chat,
    "eval": eval_,
    "ablate": ablate,
    "report": report,
    "export": export,
    "lr-law": lr_law,
    "sizes": sizes,
}
