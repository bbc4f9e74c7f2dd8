"""What a pipeline's text encoders make of prompts, with or without the rest of the pipeline."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eigenbank.progress import quietly
from eigenbank.registry.files import parse_json, read_bounded
from eigenbank.schemas.errors import SourceError

_NEEDED = ("text_encoder", "tokenizer", "scheduler")
"""Beginnings of the names of the components that prompts are read with; pipelines do not open without a scheduler."""


@torch.no_grad()
def encode_prompts(pipe: Any, prompts: Sequence[str]) -> list[Tensor]:
    """The tokens of each prompt as the denoiser is given them, `(n, e)` float32 on the CPU, without what a mask leaves out.

    Raises SourceError for a pipeline that reads no prompts or reads them in a way of its own, or a prompt that is longer than it reads or of signs that it does not know.
    """
    encode = getattr(pipe, "encode_prompt", None)
    if encode is None or getattr(pipe, "text_encoder", None) is None:
        problem = f"this {type(pipe).__name__} has no text encoder that reads prompts"
        raise SourceError(problem)
    known = inspect.signature(encode).parameters
    given = {"prompt_2": None, "prompt_3": None, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    given = {name: value for name, value in given.items() if name in known}
    found = []
    for prompt in prompts:
        try:
            _check_readable(pipe, prompt)
            made = encode(prompt=[prompt], device=pipe.text_encoder.device, **given)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # pipelines encode in ways of their own
            problem = f"the text encoder of this {type(pipe).__name__} cannot be asked by itself ({str(error)[:200]})"
            raise SourceError(problem) from error
        tokens, *others = made if isinstance(made, (tuple, list)) else (made,)
        if not isinstance(tokens, Tensor) or tokens.ndim != 3:
            problem = f"this {type(pipe).__name__} encodes prompts as something else than tokens"
            raise SourceError(problem)
        masks = [each for each in others if isinstance(each, Tensor) and each.shape == tokens.shape[:2]]
        found.append((tokens[0][masks[0][0].bool()] if masks else tokens[0]).float().cpu())
    return found


def _check_readable(pipe: Any, prompt: str) -> None:
    """Raise SourceError for a prompt that none of the pipeline's tokenizers reads whole."""
    problems = []
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipe, name, None)
        if tokenizer is None:
            continue
        ids, most = tokenizer(prompt, truncation=False, verbose=False).input_ids, tokenizer.model_max_length
        unknown = tokenizer.unk_token_id
        if len(ids) > most:
            problems.append(f"this pipeline reads prompts of {most} tokens, {prompt[:60]!r}… has {len(ids)}")
        elif unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.pad_token_id) and unknown in ids:
            problems.append(f"this pipeline's tokenizer does not know all signs of {prompt[:60]!r}")
        else:
            return
    if problems:
        raise SourceError(problems[0], advice="Use fewer or other words")


def open_text_side(place: Path | str, *, revision: str | None = None, variant: str | None = None) -> Any:
    """Open a diffusers pipeline's text encoders and tokenizers alone, in float32: of a folder, or of a repository on the Hub, of which
    nothing else is fetched. `variant` names one of its sets of weights. Raises SourceError.
    """
    import diffusers

    from eigenbank.loaders.pipelines import needed_variant

    try:
        if isinstance(place, Path):
            index = parse_json(read_bounded(place / "model_index.json", 2**20))
            variant = variant or needed_variant(each.relative_to(place).as_posix() for each in place.glob("*/*"))
        else:
            index = dict(diffusers.DiffusionPipeline.load_config(place, revision=revision))
        left_out: dict[str, Any] = {
            name: None
            for name, value in index.items()
            if isinstance(value, list) and not name.startswith(_NEEDED) and value[0] is not None
        }
        if "requires_safety_checker" in index:
            left_out["requires_safety_checker"] = False
        with quietly():
            return diffusers.DiffusionPipeline.from_pretrained(
                place, revision=revision, variant=variant, torch_dtype=torch.float32, **left_out
            )
    except Exception as error:  # diffusers raises whatever its loaders, the Hub or the disk raise
        problem = f"the text encoders of {place} cannot be opened: {str(error).strip()[:300]}"
        raise SourceError(problem) from error
