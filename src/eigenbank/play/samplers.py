"""Samplers: how a pipeline can be made to draw, in this program and as lines of a reader's own."""

import copy
from dataclasses import dataclass
from typing import Any

OWN = "as loaded"
"""The sampler the pipeline comes with."""

_NAMES = {
    "DDIM": "DDIMScheduler",
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Euler, ancestral": "EulerAncestralDiscreteScheduler",
    "DDPM": "DDPMScheduler",
}
"""The samplers offered, by the names people use, and diffusers' classes."""
_UNSCALED = ("DDIM", "DPM-Solver++", "DDPM")
"""Those that DDPMPipeline can drive: it neither scales what it gives to the denoiser nor what it starts from."""


@dataclass(frozen=True)
class Sampler:
    """One way to draw. `lines` make it of a variable `pipe` in Python, none for the pipeline as it is loaded."""

    name: str
    kind: str | None = None
    bare: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """Python that turns a loaded `pipe` into one that draws so."""
        if self.kind is None:
            return ()
        made = f"diffusers.{self.kind}.from_config(pipe.scheduler.config)"
        if self.bare:
            return ("import diffusers", f"pipe = diffusers.DDPMPipeline(unet=pipe.unet, scheduler={made})")
        return ("import diffusers", f"pipe.scheduler = {made}")

    def open(self, pipe: Any) -> Any:
        """A pipeline on the same weights that draws so; the given one is left as it is."""
        if self.kind is None:
            return pipe
        import diffusers

        scheduler = getattr(diffusers, self.kind).from_config(pipe.scheduler.config)
        if self.bare:
            made = diffusers.DDPMPipeline(unet=pipe.unet, scheduler=scheduler)
            made.set_progress_bar_config(disable=True)
            return made
        made = copy.copy(pipe)
        made.scheduler = scheduler
        return made


def samplers_of(pipe: Any) -> list[Sampler]:
    """The samplers a pipeline can draw with; the one it comes with first, under its name where it has one here."""
    scheduler = getattr(pipe, "scheduler", None)
    own = type(scheduler).__name__
    named = next((name for name, kind in _NAMES.items() if kind == own), OWN)
    compatible = {kind.__name__ for kind in getattr(scheduler, "compatibles", ())}
    # Unconditional pipelines of diffusers are written for one scheduler; the plainest takes three.
    bare = type(pipe).__name__ in ("DDIMPipeline", "DDPMPipeline")
    others = [
        Sampler(name, kind, bare)
        for name, kind in _NAMES.items()
        if name != named and kind in compatible and (not bare or name in _UNSCALED)
    ]
    return [Sampler(named), *others]
