"""Open pipelines from a folder, find their denoiser and origin."""

from pathlib import Path
from typing import Any

from torch import nn

from eigenbank.diffusers_compat import loaded_from, set_loaded_from
from eigenbank.loaders.plugins import target_of
from eigenbank.loaders.target import Target
from eigenbank.registry.sets.bundled import locate
from eigenbank.schemas.errors import SourceError

_OPENED_AS = "_eigenbank_model_id"
"""The attribute of a pipeline that says which model it was opened as: several ids can have one folder."""


def denoiser_of(pipe: Any) -> nn.Module:
    """Return the network that denoises, a pipeline's first if it has several. Raises SteerError where there is none."""
    return next(iter(target_of(pipe).denoisers.values()))


def origin_of(pipe: Any) -> str | None:
    """Return where a pipeline was loaded from, a catalog location or a model id; None if diffusers does not remember."""
    for owner in (pipe.owner if isinstance(pipe, Target) else pipe, denoiser_of(pipe)):
        name = loaded_from(owner)
        if name is not None:
            path = Path(name)
            if not path.is_dir():
                return name
            # A denoiser of its own was loaded from a subfolder of the checkpoint.
            return locate(path.parent if (path.parent / "model_index.json").is_file() else path)
    return None


def opened_model_id(pipe: Any) -> str | None:
    """Return the model id that `open_pipeline` was given for a pipeline; None where there was none."""
    found = getattr(pipe.owner if isinstance(pipe, Target) else pipe, _OPENED_AS, None)
    return found if isinstance(found, str) else None


def open_pipeline(folder: Path, device: str = "cpu", *, model_id: str | None = None) -> Any:
    """Load a diffusers pipeline from a local folder, with DDIM in place of DDPM's sampler, which is random.

    `model_id` is the model whose directions are then looked up for it. Raises SourceError when diffusers cannot load it.
    """
    import diffusers
    from diffusers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    except Exception as error:  # diffusers raises whatever its loaders raise
        message = f"diffusers cannot load a pipeline from {folder}: {error}"
        raise SourceError(message) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    if type(pipe) is diffusers.DDPMPipeline:
        scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        pipe = diffusers.DDIMPipeline(unet=pipe.unet, scheduler=scheduler)
        set_loaded_from(pipe, folder)
    elif type(getattr(pipe, "scheduler", None)) is diffusers.DDPMScheduler:
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    if model_id is not None:
        setattr(pipe, _OPENED_AS, model_id)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
