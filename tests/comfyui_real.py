"""Tiny models of ComfyUI's own classes, with the weights of tiny models of diffusers: COMFYUI names a checkout of ComfyUI."""

import functools
import importlib.machinery
import importlib.util
import os
import re
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACK = Path(__file__).parents[1] / "comfyui"
CHECKOUT = os.environ.get("COMFYUI", "")


def pack() -> Any:
    """The node pack, imported as ComfyUI imports what lies in custom_nodes."""
    name = "eigenbank_comfyui"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@functools.cache
def start() -> None:
    """Put the checkout on the path and import of ComfyUI what tests use, on the CPU."""
    sys.path.append(CHECKOUT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
        import diffusers.loaders.peft  # noqa: F401 -- with transformers, which asks for torchvision: before there is an empty one

        stubs = () if importlib.util.find_spec("torchvision") else ("torchvision", "torchvision.transforms")
        for name in stubs:  # only ComfyUI's decoders and Cosmos use it
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        if stubs:
            sys.modules[stubs[0]].transforms = sys.modules[stubs[1]]  # type: ignore[attr-defined]
        import comfy.sample
        import comfy.sd

        for name in stubs:
            del sys.modules[name]


@dataclass
class Family:
    """A tiny model twice: `theirs` of diffusers, and `patcher` around ComfyUI's with the same weights."""

    theirs: nn.Module
    patcher: Any
    positive: Any
    negative: Any
    latent: Tensor

    def sample(
        self, patcher: Any, steps: int = 3, cfg: float = 3.0, sampler: str = "euler", **more: Any
    ) -> tuple[Tensor, list[Any]]:
        """Run ComfyUI's sampler. Returns the latent image, and every call of the model: arguments by name, and its output."""
        import comfy.sample

        calls: list[Any] = []
        model = patcher.model.diffusion_model

        def note(_module: Any, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
            names = ["x", "t"]
            options = kwargs["transformer_options"]
            given = {
                **dict(zip(names, args, strict=False)),
                **{key: value for key, value in kwargs.items() if value is not None},
            }
            given["sigma"] = float(options["sigmas"].flatten()[0])
            given["order"] = list(options["cond_or_uncond"])
            calls.append(
                (
                    {key: value.clone() if isinstance(value, Tensor) else value for key, value in given.items()},
                    output.clone(),
                )
            )

        handle = model.register_forward_hook(note, with_kwargs=True)
        noise = torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(7))
        try:
            with torch.no_grad():
                made = comfy.sample.sample(
                    patcher, noise, steps, cfg, sampler, "normal", self.positive, self.negative, self.latent, disable_pbar=True,
                    seed=0, **more,
                )  # fmt: skip
        finally:
            handle.remove()
        return made, calls

    def call(self, given: dict[str, Any]) -> Tensor:
        """Call the model of diffusers with what ComfyUI called its own with; the output in ComfyUI's shape."""
        with torch.no_grad():
            return CALLS[type(self.theirs).__name__](self.theirs, given)


def _random(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1.2 / parameter[0].numel() ** 0.5)
        elif name.endswith("weight"):
            nn.init.normal_(parameter, 1.0, 0.1)
        else:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def _converted(names: dict[str, Any], theirs: nn.Module, ours: nn.Module) -> None:
    """Fill ComfyUI's model with the weights of diffusers', by a map of names as comfy.utils makes them."""
    state = ours.state_dict()
    left = set(state)
    for name, value in theirs.state_dict().items():
        place = names[name]
        key, rows, change = (place, None, None) if isinstance(place, str) else (*place, None, None)[:3]
        target = state[key] if rows is None else state[key].narrow(*rows)
        target.copy_((value if change is None else change(value)).reshape(target.shape))
        left.discard(key)
    assert not left, f"not filled: {sorted(left)[:5]}"


def _patcher(kind: str, config: dict[str, Any], **changed: Any) -> Any:
    import comfy.model_patcher
    import comfy.supported_models

    made = getattr(comfy.supported_models, kind)(config)
    made.unet_config.update(changed)
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, "", device="cpu")
    model.diffusion_model.eval().requires_grad_(False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def _text(length: int, width: int, seed: int) -> Tensor:
    return torch.randn(1, length, width, generator=torch.Generator().manual_seed(seed))


def _unet(*, xl: bool) -> Family:
    import comfy.utils
    import diffusers

    more: dict[str, Any] = {}
    if xl:
        more = {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 16 + 1536,
            "use_linear_projection": True, "transformer_layers_per_block": (2, 1), "attention_head_dim": (1, 2),
        }  # fmt: skip
    theirs = _random(
        diffusers.UNet2DConditionModel(**{
            "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 2,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), **more,
        })
    )  # fmt: skip
    depth = 2 if xl else 1
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
        "transformer_depth": [depth, 1], "transformer_depth_output": [depth, depth, 1, 1], "transformer_depth_middle": 1, "context_dim": 16,
        "use_linear_in_transformer": xl, "use_spatial_transformer": True, "legacy": False, "adm_in_channels": 1552 if xl else None,
        "num_classes": "sequential" if xl else None, "use_temporal_attention": False,
    }  # fmt: skip
    heads = {"num_heads": -1, "num_head_channels": 32} if xl else {"num_heads": 2, "num_head_channels": -1}
    patcher = _patcher("SDXL" if xl else "SD15", config, **heads)
    _converted(
        comfy.utils.unet_to_diffusers(patcher.model.model_config.unet_config), theirs, patcher.model.diffusion_model
    )
    said = [{"pooled_output": _text(1, 16, seed)[0]} for seed in (3, 4)]
    return Family(theirs, patcher, [[_text(5, 16, 1), said[0]]], [[_text(5, 16, 2), said[1]]], torch.zeros(2, 4, 8, 12))


def _call_unet(model: Any, given: dict[str, Any]) -> Tensor:
    added = {}
    if "y" in given:
        rows = given["x"].shape[0]
        height, width = 8 * given["x"].shape[2], 8 * given["x"].shape[3]
        ids = torch.tensor([[height, width, 0, 0, height, width]] * rows)
        added = {"added_cond_kwargs": {"text_embeds": given["y"][:, :16], "time_ids": ids}}
    return model(given["x"], given["t"], given["context"], **added).sample


def _sd3() -> Family:
    import comfy.utils
    import diffusers

    theirs = _random(
        diffusers.SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=64, num_attention_heads=2,
            joint_attention_dim=32, caption_projection_dim=128, pooled_projection_dim=16, pos_embed_max_size=16,
            dual_attention_layers=(0,), qk_norm="rms_norm",
        )
    )  # fmt: skip
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 128}}
    config = {
        "in_channels": 16, "depth": 2, "num_patches": 256, "pos_embed_max_size": 16, "adm_in_channels": 16, "qk_norm": "rms",
        "context_embedder_config": embedder, "x_block_self_attn_layers": [0], "input_size": None,
    }  # fmt: skip
    patcher = _patcher("SD3", config)
    names = comfy.utils.mmdit_to_diffusers(config)
    _converted(names, theirs, patcher.model.diffusion_model)
    said = [{"pooled_output": _text(1, 16, seed)[0]} for seed in (3, 4)]
    return Family(
        theirs, patcher, [[_text(5, 32, 1), said[0]]], [[_text(5, 32, 2), said[1]]], torch.zeros(2, 16, 8, 12)
    )


def _flux() -> Family:
    import comfy.utils
    import diffusers

    theirs = _random(
        diffusers.FluxTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
            pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 4, 8),
        )
    )  # fmt: skip
    config = {
        "image_model": "flux", "in_channels": 4, "out_channels": 4, "vec_in_dim": 16, "context_in_dim": 32, "hidden_size": 32, "depth": 1,
        "mlp_ratio": 4.0, "num_heads": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 8], "theta": 10000, "patch_size": 2, "qkv_bias": True,
        "guidance_embed": True,
    }  # fmt: skip
    patcher = _patcher("Flux", config)
    _converted(comfy.utils.flux_to_diffusers(config), theirs, patcher.model.diffusion_model)
    said = [{"pooled_output": _text(1, 16, seed)[0], "guidance": 3.5} for seed in (3, 4)]
    return Family(theirs, patcher, [[_text(5, 32, 1), said[0]]], [[_text(5, 32, 2), said[1]]], torch.zeros(2, 4, 8, 12))


def _qwen() -> Family:
    import diffusers

    theirs = _random(
        diffusers.QwenImageTransformer2DModel(
            patch_size=2, in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        )
    )  # fmt: skip
    config = {
        "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6),
    }  # fmt: skip
    patcher = _patcher("QwenImage", config)
    _converted({name: name for name in theirs.state_dict()}, theirs, patcher.model.diffusion_model)
    return Family(theirs, patcher, [[_text(5, 16, 1), {}]], [[_text(5, 16, 2), {}]], torch.zeros(2, 16, 1, 8, 12))


_WAN = (
    (r"condition_embedder\.time_embedder\.linear_(\d)", lambda m: f"time_embedding.{2 * int(m[1]) - 2}"),
    (r"condition_embedder\.text_embedder\.linear_(\d)", lambda m: f"text_embedding.{2 * int(m[1]) - 2}"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"attn1\.to_([qkv])\.", r"self_attn.\1."),
    (r"attn2\.to_([qkv])\.", r"cross_attn.\1."),
    (r"attn1\.to_out\.0", "self_attn.o"),
    (r"attn2\.to_out\.0", "cross_attn.o"),
    (r"attn1\.", "self_attn."),
    (r"attn2\.", "cross_attn."),
    (r"\.norm2\.", ".norm3."),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
    (r"^scale_shift_table", "head.modulation"),
    (r"scale_shift_table", "modulation"),
    (r"^proj_out", "head.head"),
)
"""diffusers' names of Wan's parameters, as the original checkpoint and ComfyUI have them."""


def _wan() -> Family:
    import diffusers

    theirs = _random(
        diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2,
        )
    )  # fmt: skip
    config = {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 24, "ffn_dim": 32, "freq_dim": 16, "text_dim": 16, "in_dim": 16, "out_dim": 16,
        "num_heads": 2, "num_layers": 2,
    }  # fmt: skip
    patcher = _patcher("WAN21_T2V", config)
    names = {}
    for name in theirs.state_dict():
        names[name] = name
        for pattern, replacement in _WAN:
            names[name] = re.sub(pattern, replacement, names[name])
    _converted(names, theirs, patcher.model.diffusion_model)
    return Family(theirs, patcher, [[_text(5, 16, 1), {}]], [[_text(5, 16, 2), {}]], torch.zeros(2, 16, 3, 8, 12))


def _call_sd3(model: Any, given: dict[str, Any]) -> Tensor:
    return model(given["x"], given["context"], given["y"], given["t"]).sample


def _packed(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(batch, height // 2 * (width // 2), channels * 4)


def _unpacked(tokens: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    x = tokens.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, channels, height, width)


def _call_flux(model: Any, given: dict[str, Any]) -> Tensor:
    height, width = (extent // 2 for extent in given["x"].shape[2:])
    ids = torch.zeros(height, width, 3)
    ids[..., 1], ids[..., 2] = torch.arange(height)[:, None], torch.arange(width)[None]
    made = model(
        hidden_states=_packed(given["x"]), encoder_hidden_states=given["context"], pooled_projections=given["y"], timestep=given["t"],
        img_ids=ids.reshape(-1, 3), txt_ids=torch.zeros(given["context"].shape[1], 3), guidance=given["guidance"],
    )  # fmt: skip
    return _unpacked(made.sample, given["x"])


def call_qwen(model: Any, given: dict[str, Any]) -> Tensor:
    x = given["x"][:, :, 0]
    rows, length = x.shape[0], given["context"].shape[1]
    made = model(
        hidden_states=_packed(x), encoder_hidden_states=given["context"], encoder_hidden_states_mask=torch.ones(rows, length, dtype=torch.bool),
        timestep=given["t"], img_shapes=[[(1, x.shape[2] // 2, x.shape[3] // 2)]] * rows,
    )  # fmt: skip
    return _unpacked(made.sample, x)[:, :, None]


def _call_wan(model: Any, given: dict[str, Any]) -> Tensor:
    return model(hidden_states=given["x"], timestep=given["t"], encoder_hidden_states=given["context"]).sample


CALLS = {
    "UNet2DConditionModel": _call_unet,
    "SD3Transformer2DModel": _call_sd3,
    "FluxTransformer2DModel": _call_flux,
    "QwenImageTransformer2DModel": call_qwen,
    "WanTransformer3DModel": _call_wan,
}
FAMILIES = {
    "sd": lambda: _unet(xl=False),
    "sdxl": lambda: _unet(xl=True),
    "sd3": _sd3,
    "flux": _flux,
    "qwen": _qwen,
    "wan": _wan,
}
