"""Floor 1: text. Tokenizers, chat templates, corpora, packing."""
