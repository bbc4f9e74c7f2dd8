"""Every private attribute of diffusers, torch and accelerate that eigenbank relies on, one function each.

Seen in diffusers 0.42.1, torch 2.13.0 and accelerate 1.15.0. `tests/test_diffusers_compat.py` runs
before all other tests and fails, naming the function, when a library changes what one of these relies on; another test
there keeps the rest of the package from reading private attributes itself. Importing this module imports none of the
libraries.
"""

import copy
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# torch


def compiled_from(module: "nn.Module") -> "nn.Module | None":
    """Return the module that `torch.compile(module)` wraps, None for a module that is no such wrapper.

    Relies on torch's OptimizedModule registering it as the submodule `_orig_mod`.
    """
    inner: nn.Module | None = module.__dict__.get("_modules", {}).get("_orig_mod")
    return inner


def compiled_call(module: "nn.Module") -> Callable[..., Any] | None:
    """Return what a module calls since `module.compile()`, None where it was not compiled in place.

    Relies on torch's `Module._compiled_call_impl`, which `Module.__call__` prefers over its own implementation.
    """
    found: Callable[..., Any] | None = getattr(module, "_compiled_call_impl", None)
    return found


def set_compiled_call(module: "nn.Module", call: Callable[..., Any]) -> None:
    """Replace what a module calls since `module.compile()`. Relies on the same attribute as `compiled_call`."""
    module._compiled_call_impl = call


def tensor_tables(module: "nn.Module") -> "tuple[dict[str, Any], dict[str, Any]]":
    """Return a module's own parameters and buffers, as dictionaries whose values can be replaced whatever their shape.

    Relies on torch's `Module._parameters` and `Module._buffers`.
    """
    return module._parameters, module._buffers


def is_convolution(module: "nn.Module") -> bool:
    """Whether a module is a convolution of any dimension, transposed ones included.

    Relies on `torch.nn.modules.conv._ConvNd` being their common base class.
    """
    from torch import nn

    return isinstance(module, nn.modules.conv._ConvNd)


def without_torch_function() -> AbstractContextManager[Any]:
    """Run torch operations without `__torch_function__` being called. Relies on `torch._C.DisableTorchFunction`."""
    import torch

    manager: AbstractContextManager[Any] = torch._C.DisableTorchFunction()
    return manager


# accelerate


def has_accelerate_hook(module: "nn.Module") -> bool:
    """Whether accelerate moves a module's weights or inputs. Relies on accelerate's `Module._hf_hook`."""
    return hasattr(module, "_hf_hook")


def offloaded_weight(module: "nn.Module", name: str) -> "Tensor | None":
    """Return a weight that accelerate keeps elsewhere while the module rests, None where it does not.

    Relies on `_hf_hook.weights_map` of accelerate's AlignDevicesHook, a mapping from a parameter's name to its values.
    """
    kept = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    return None if kept is None else kept[name]


# diffusers' hooks


def hook_registry(module: "nn.Module") -> Any:
    """Return a module's own HookRegistry, None where it has none yet.

    Relies on `HookRegistry.check_if_exists_or_initialize` keeping it as `_diffusers_hook` in the module's dictionary.
    """
    return module.__dict__.get("_diffusers_hook")


# diffusers' pipelines and models


def execution_device(pipe: Any) -> "torch.device":
    """Return the device a pipeline computes on, also under offload. Relies on `DiffusionPipeline._execution_device`."""
    device: torch.device = getattr(pipe, "_execution_device", pipe.device)
    return device


def packed_latents(pipe: Any, latents: "Tensor") -> "Tensor":
    """Bring latents `(n, c, h, w)` into the form a pipeline takes as `latents`: packed for FLUX, unchanged for others.

    Relies on `FluxPipeline._pack_latents(latents, batch_size, channels, height, width)`.
    """
    if not hasattr(pipe, "_pack_latents"):
        return latents
    packed: Tensor = pipe._pack_latents(latents, *latents.shape)
    return packed


def unpacked_latents(pipe: Any, latents: "Tensor", height: int, width: int) -> "Tensor":
    """Bring latents as a pipeline returns them back into `(n, c, h, w)`; height and width are the image's.

    Relies on `FluxPipeline._unpack_latents(latents, height, width, vae_scale_factor)`.
    """
    if not hasattr(pipe, "_unpack_latents"):
        return latents
    unpacked: Tensor = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    return unpacked


def forget_adapters(module: "nn.Module") -> None:
    """Make a model whose adapters were all taken away one that never had any.

    Relies on diffusers and transformers keeping in its dictionary `peft_config` and `_hf_peft_config_loaded`.
    """
    for name in ("peft_config", "_hf_peft_config_loaded"):
        module.__dict__.pop(name, None)


def loaded_from(owner: Any) -> str | None:
    """Return the folder or model id that a pipeline or model was loaded from, None where it does not say.

    Relies on `from_pretrained` keeping it in the config as `_name_or_path`, for some classes as an attribute of it.
    """
    config = getattr(owner, "config", None)
    name = getattr(config, "_name_or_path", None) or (config.get("_name_or_path") if config else None)
    return str(name) if isinstance(name, (str, Path)) and str(name) else None


def set_loaded_from(pipe: Any, folder: Path) -> None:
    """Make a pipeline say that it was loaded from a folder. Relies on the same entry of its config as `loaded_from`."""
    pipe.register_to_config(_name_or_path=str(folder))


def calls_in_turn(owner: Any, denoisers: Iterable[str]) -> bool:
    """Whether a pipeline calls one of its denoisers more than once a step, for each branch of guidance.

    Reads the source text of the pipeline's `__call__`: relies on it naming its denoiser as `self.NAME(` there.
    """
    try:
        code = inspect.getsource(type(owner).__call__)
    except (TypeError, OSError, AttributeError):
        return False
    return any(code.count(f"self.{name}(") > 1 for name in denoisers if name)


def guides_at(pipe: Any, scale: float) -> bool:
    """Whether a pipeline guides at a guidance scale of at most 1: most guide above 1, some above 0, and these say so by a property.

    diffusers 0.42: pipelines keep `_guidance_scale` of their call, by which `do_classifier_free_guidance` goes.
    """
    told = copy.copy(pipe)
    told._guidance_scale = scale
    try:
        return bool(getattr(told, "do_classifier_free_guidance", False))
    except (AttributeError, TypeError):
        return True


def running_pipeline(thread: int | None = None) -> tuple[Any, Mapping[str, Any]] | None:
    """Return the diffusers pipeline that is calling this code, or that a thread is in, and the local variables of its methods.

    None where there is none.

    Reads the frames of the call, those of another thread by `sys._current_frames`. Relies on pipelines keeping in `__call__` the steps of a run in `timesteps` and the place
    among them in `i`; in variables named as in `denoiser_calls.py` whether they guide, and their texts. The blocks of a
    modular pipeline, which `components` is in their `__call__`, keep the same in their `block_state`.
    """
    base = getattr(sys.modules.get("diffusers.pipelines.pipeline_utils"), "DiffusionPipeline", None)
    if base is None:
        return None
    modular = sys.modules.get("diffusers.modular_pipelines.modular_pipeline")
    blocks = getattr(modular, "ModularPipelineBlocks", ())
    owner: Any = None
    found: dict[str, Any] = {}
    frame = sys._getframe(1) if thread is None else sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",):
            local = frame.f_locals
            if isinstance(local.get("self"), base) and owner in (None, local["self"]):
                owner, found = local["self"], {**local, **found}
                if frame.f_code.co_name == "__call__":
                    break
            elif isinstance(local.get("self"), blocks) and "components" in local:
                state: dict[str, Any] = getattr(local.get("block_state"), "as_dict", dict)()
                owner, found = local["components"], {**state, **local, **found}
                if "i" in found and "timesteps" in found:
                    break
        frame = frame.f_back
    return None if owner is None else (owner, found)


def guider_branch(local: Mapping[str, Any]) -> str | None:
    """Return which prediction of a guider a modular pipeline asks for, `pred_cond` or another, by the variables of its block.

    Guiders call the denoiser once per condition and mark each set of inputs with it.
    """
    name = getattr(local.get("guider_state_batch"), "__guidance_identifier__", None)
    return name if isinstance(name, str) else None
