"""Which tokens of a conversation are learned, against the assistant masks of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tenfold.align.chat_samples import chat_sample
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

CHAT = [
    Message("system", "Be short."),
    Message("user", "one and two?\n"),
    Message("assistant", "three"),
    Message("user", "yes?"),
    Message("assistant", "I do not know"),
]
# Theirs marks the turns inside the template; ours must find the same ones without the marks.
MARKED = (
    "<s>{% for message in messages %}{{ '<|' ~ message['role'] ~ '|>' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] ~ '<|end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] ~ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


@pytest.mark.parametrize("template", [PLAIN, MARKED, None])
def test_assistant_masks(template: str | None, tmp_path: Path) -> None:
    trained = train_tokenizer(["what is the sum of one and two? the answer is three, I do not know"] * 20, 330)
    tokenizer = Tokenizer(
        trained.backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        end_token="<|end|>",
        chat_template=trained.chat_template if template is None else template,
    )
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": message.role, "content": message.content} for message in CHAT],
        chat_template=MARKED,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    sample = chat_sample(tokenizer, CHAT)
    assert list(sample.ids) == list(theirs["input_ids"])
    assert list(map(int, sample.learned)) == list(theirs["assistant_masks"])


def test_a_published_models_template(smollm2_file: Path) -> None:
    from tenfold.lm.gguf import read_gguf_tokenizer

    tokenizer = read_gguf_tokenizer(smollm2_file)
    sample = chat_sample(tokenizer, CHAT)
    learned = tokenizer.decode([id for id, on in zip(sample.ids, sample.learned, strict=True) if on])
    assert learned == "three<|im_end|>I do not know<|im_end|>"
    assert tokenizer.decode(sample.ids).endswith("know<|im_end|>\n")
