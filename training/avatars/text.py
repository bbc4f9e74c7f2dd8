"""The tokenizer and the text encoder: CLIP's classes, small.

The encoder is first taught to say which factors a caption mentions and with which value; then it is trained on with the
denoiser. Without this start the denoiser spends hours on learning words.
"""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from avatars.captions import caption, choose, say
from avatars.factors import FACTORS, NAMES, sample_factors
from avatars.loop import Schedule, Workers, train

LENGTH = 48
"""Tokens of a prompt, its start and end among them."""
VOCABULARY = 1024
WIDTH = 128
SCHEDULE = Schedule(steps=1_500, batch=64, rate=1e-3)


def train_tokenizer(seed: int = 0, captions: int = 20_000) -> CLIPTokenizer:
    """Byte-pair encoding with CLIP's normalizer and word boundaries, learned from captions.

    All bytes are in the vocabulary, inside words and at their end, so that any prompt can be spelled.
    """
    factors = sample_factors(captions, torch.Generator().manual_seed(seed)).tolist()
    draw = random.Random(seed)
    blank = CLIPTokenizer()
    learner: Tokenizer = blank.backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        end_of_word_suffix="</w>",
        special_tokens=[blank.bos_token, blank.eos_token],
        show_progress=False,
    )
    learner.train_from_iterator((caption(row, draw) for row in factors), trainer)
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(_byte_letters())
    words = [blank.bos_token, blank.eos_token, *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*words, *(a + b for a, b in merges)]))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # pairs, as the library keeps them
        model_max_length=LENGTH,
    )


def _byte_letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return list(ByteLevel.alphabet())


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer, `vocab.json` and `merges.txt` among its files: transformers 5 leaves them out, others need them."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """`(n, LENGTH)` int64, padded as the pipeline pads prompts."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids  # type: ignore[no-any-return]


def new_text_encoder(tokenizer: CLIPTokenizer, seed: int = 0, width: int = WIDTH, layers: int = 3) -> CLIPTextModel:
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class _Heads(nn.Module):
    """For each factor, which value a caption mentions, or that it mentions none: dropped after the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(factor.values) + 1) for factor in FACTORS)

    def forward(self, text: Tensor) -> list[Tensor]:
        return [head(text) for head in self.heads]


def train_text_encoder(
    tokenizer: CLIPTokenizer, state: Path, workers: Workers, stop: int | None = None
) -> tuple[CLIPTextModel, float]:
    """The text encoder after its start, and the share of factors it reads from captions it has not seen."""
    encoder = new_text_encoder(tokenizer)
    heads = _Heads(WIDTH)

    def read(generator: torch.Generator, batch: int) -> tuple[list[Tensor], Tensor]:
        texts, wanted = _lessons(generator, batch)
        ids = token_ids(tokenizer, texts).to(workers.device)
        return heads(encoder(ids).pooler_output), wanted.to(workers.device)

    def loss(_step: int, generator: torch.Generator, batch: int) -> Tensor:
        scores, wanted = read(generator, batch)
        parts = [functional.cross_entropy(part.float(), column) for part, column in zip(scores, wanted.T, strict=True)]
        return torch.stack(parts).mean()

    train("text", {"text_encoder": encoder, "heads": heads}, loss, SCHEDULE, state, workers, stop=stop)
    with torch.no_grad():
        scores, wanted = read(torch.Generator().manual_seed(-1), 512)
    right = [(part.argmax(1) == column).float().mean() for part, column in zip(scores, wanted.T, strict=True)]
    return encoder, float(torch.stack(right).mean())


def _lessons(generator: torch.Generator, batch: int) -> tuple[list[str], Tensor]:
    """Captions, and `(batch, 11)` the value each mentions; one past the last value for those it does not."""
    wanted = sample_factors(batch, generator)
    draw = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    texts = []
    for row in wanted:
        mentioned = choose(draw)
        texts.append(say(row.tolist(), mentioned, draw))
        for column, factor in enumerate(FACTORS):
            if NAMES[column] not in mentioned:
                row[column] = len(factor.values)
    return texts, wanted
