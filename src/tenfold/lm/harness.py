"""Our models under lm-evaluation-harness: its hundreds of tasks and its exact conventions, on any model here."""

from __future__ import annotations

from typing import Any

from torch import nn

from tenfold.core.errors import UserError
from tenfold.lm.answers import GreedyGenerate, greedy_answers
from tenfold.lm.loglikelihood import TextEncoder, loglikelihood, loglikelihood_rolling


def harness_model(
    model: nn.Module,
    tokenizer: Any,
    *,
    batch_tokens: int = 4096,
    max_len: int | None = None,
    prefix_id: int | None = None,
    dropless: bool = True,
    max_new_tokens: int = 256,
    generate: GreedyGenerate | None = None,
) -> Any:
    """A model that `lm_eval.simple_evaluate(model=…, tasks=[…])` takes.

    Args:
        model, tokenizer, batch_tokens, max_len, prefix_id, dropless: as in `tenfold.lm.score.loglikelihood`.
        max_new_tokens: longest generated answer where a task states none.
        generate: greedy generation for models that are not a `Decoder`.
    Returns:
        An `lm_eval.api.model.LM` with loglikelihood, loglikelihood_rolling and generate_until (greedy only).
    Raises:
        UserError: lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise UserError('lm-eval is not installed: pip install lm-eval (or "tenfold[eval]")') from error
    encoder = TextEncoder(tokenizer, prefix_id)
    scoring: dict[str, Any] = {"max_len": max_len, "prefix_id": prefix_id, "dropless": dropless}

    class HarnessLM(LM):
        """One process, one model; requests are lm-eval's `Instance`s."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return loglikelihood(model, tokenizer, [request.args for request in requests], batch_tokens, **scoring)

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return loglikelihood_rolling(model, tokenizer, [r.args[0] for r in requests], batch_tokens, **scoring)

        def generate_until(self, requests: list[Any]) -> list[str]:
            answers = [""] * len(requests)
            groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
            for i, request in enumerate(requests):
                groups.setdefault(_generation(request.args[1], max_new_tokens), []).append(i)
            for (length, stop), members in groups.items():
                prompts = [requests[i].args[0] for i in members]
                texts = greedy_answers(
                    model,
                    encoder,
                    prompts,
                    max_new_tokens=length,
                    stop=stop,
                    max_len=max_len,
                    dropless=dropless,
                    generate=generate,
                )
                for i, text in zip(members, texts, strict=True):
                    answers[i] = text
            return answers

        @property
        def tokenizer_name(self) -> str:
            return type(tokenizer).__name__

    return HarnessLM()


def _generation(options: dict[str, Any], default: int) -> tuple[int, tuple[str, ...]]:
    """(tokens, stop strings) of a task's generation options. Raises UserError: the task wants sampling."""
    if options.get("do_sample") or options.get("temperature"):
        raise UserError(f"generation: got {options}, need do_sample false and temperature 0 (answers are greedy here)")
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    length = next((int(options[name]) for name in names if options.get(name)), default)
    until = options.get("until") or ()
    return length, (until,) if isinstance(until, str) else tuple(until)
