"""The training loop of the project's own small models: seeded by step, averaged, resumable."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
import torch
from diffusers.training_utils import EMAModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def bars() -> Progress:
    """The progress bars of training, with room for a note such as the loss."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"))


def learning_rate(step: int, steps: int, peak: float = 1e-3) -> float:
    """Warm up over 200 steps, hold, and come down linearly over the last quarter."""
    return peak * min(1.0, (step + 1) / 200, max(0.01, (steps - step) / (0.25 * steps)))


def train(
    name: str,
    model: M,
    loss_at: Callable[[M, int], Tensor],
    *,
    steps: int,
    state: Path,
    progress: Progress,
    peak: float = 1e-3,
) -> M:
    """Train, or go on training, and return the model with the averaged (EMA) weights, ready to be used.

    `loss_at(model, step)` must depend on nothing but its arguments, so that an interruption does not change what is
    seen. What is needed to go on is written to `state` every 200 steps.
    """
    device = next(model.parameters()).device
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, power=0.8)
    first = 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(saved["denoiser"])
        optimizer.load_state_dict(saved["optimizer"])
        ema.load_state_dict(saved["ema"])
        first = saved["step"]
    bar = progress.add_task(name, total=steps, completed=first, note="")
    average = None
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        loss = loss_at(model, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.step(model.parameters())
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        progress.update(bar, advance=1, note=f"loss {average:.4f}")
        if (step + 1) % 200 == 0 or step + 1 == steps:
            if not progress.console.is_terminal:
                click.echo(f"{name}: step {step + 1} loss {average:.4f}")
            state.parent.mkdir(parents=True, exist_ok=True)
            partial = state.with_suffix(".partial")
            saved = {
                "denoiser": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema.state_dict(),
                "step": step + 1,
            }
            torch.save(saved, partial)
            os.replace(partial, state)
    ema.copy_to(model.parameters())
    return model.eval()
