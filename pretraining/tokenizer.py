"""Tokenizer of the embedded bases: BPE over the words of the prompts."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pretraining.corpus import prompt_phrases

MAX_TOKENS = 24
"""Tokens per prompt, including start and end tokens."""


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train the vocabulary on every prompt phrase; returns a CLIPTokenizer.

    Unknown words fall back to single letters, so any class name of a laboratory can be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789-,.'")
    corpus = [*prompt_phrases() * 20, *letters, " ".join(letters)]
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=512, end_of_word_suffix="</w>"))
    learned = json.loads(bpe.to_str())["model"]
    tokens = dict.fromkeys([*letters, *(f"{c}</w>" for c in letters), *learned["vocab"]])
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = [m if isinstance(m, str) else " ".join(m) for m in learned["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer
