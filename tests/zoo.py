"""Tiny denoisers of many classes, with random weights, what to call them with, and a bank of their own directions."""

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor, nn

from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas import Checkpoint, DirectionRecord, Layer, Manifest, Recipe, TokenLength
from eigenbank.schemas.recipe import Site

_VIDEO = {
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
}
_UNET = {
    "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "attention_head_dim": 8, "cross_attention_dim": 16,
}  # fmt: skip
_DUAL = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {
        "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "UNet2DConditionModel": {
        **_UNET, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "UNet3DConditionModel": {**_UNET, **_VIDEO},
    "UNetMotionModel": {
        **{key: value for key, value in _UNET.items() if key != "attention_head_dim"}, "num_attention_heads": 2, "motion_num_attention_heads": 2, "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    },
    "DiTTransformer2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 1, "sample_size": 8,
        "num_embeds_ada_norm": 10,
    },
    "PixArtTransformer2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "num_layers": 1, "sample_size": 8,
        "cross_attention_dim": 16, "caption_channels": 16, "norm_type": "ada_norm_single", "use_additional_conditions": False,
    },
    "SD3Transformer2DModel": {
        "sample_size": 16, "patch_size": 2, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4,
        "joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 32, "dual_attention_layers": (0,),
        "out_channels": 4, "pos_embed_max_size": 16, "in_channels": 4,
    },
    "FluxTransformer2DModel": {
        **_DUAL, "in_channels": 4, "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8),
    },
    "Flux2Transformer2DModel": {**_DUAL, "in_channels": 4, "joint_attention_dim": 32, "axes_dims_rope": (4, 4, 4, 4)},
    "QwenImageTransformer2DModel": {
        "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16,
        "axes_dims_rope": (4, 6, 6), "in_channels": 16, "out_channels": 4,
    },
    "WanTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 16,
        "ffn_dim": 32, "num_layers": 1,
    },
    "HunyuanVideoTransformer3DModel": {
        **_DUAL, "in_channels": 4, "out_channels": 4, "num_refiner_layers": 1, "text_embed_dim": 32,
        "pooled_projection_dim": 32, "rope_axes_dim": (4, 6, 6),
    },
    "HunyuanDiT2DModel": {
        "in_channels": 4, "patch_size": 2, "num_layers": 2, "sample_size": 8, "attention_head_dim": 8, "num_attention_heads": 2,
        "cross_attention_dim": 16, "hidden_size": 16, "cross_attention_dim_t5": 24, "pooled_projection_dim": 8, "text_len": 6,
        "text_len_t5": 6, "activation_fn": "gelu-approximate",
    },
    "ZImageTransformer2DModel": {
        "in_channels": 4, "dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16,
        "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32],
    },
    "Lumina2Transformer2DModel": {
        "hidden_size": 64, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2,
        "cap_feat_dim": 32, "axes_dim_rope": (8, 4, 4), "axes_lens": (300, 512, 512), "in_channels": 4, "sample_size": 8,
    },
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 2,
        "text_embed_dim": 16, "num_layers": 1, "sample_width": 8, "sample_height": 8, "sample_frames": 13, "max_text_seq_length": 6,
    },
    "AuraFlowTransformer2DModel": {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
        "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 32, "caption_projection_dim": 32, "out_channels": 4,
        "pos_embed_max_size": 64,
    },
    "SanaTransformer2DModel": {
        "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 4, "num_cross_attention_heads": 4, "in_channels": 4,
        "cross_attention_head_dim": 16, "cross_attention_dim": 64, "caption_channels": 64, "sample_size": 8, "out_channels": 4,
    },
    "LTXVideoTransformer3DModel": {
        "in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16,
        "num_layers": 1, "caption_channels": 16,
    },
    "MochiTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "pooled_projection_dim": 16, "in_channels": 4,
        "text_embed_dim": 16, "time_embed_dim": 4, "max_sequence_length": 6,
    },
    "CogView4Transformer2DModel": {
        "patch_size": 2, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "out_channels": 4,
        "text_embed_dim": 16, "time_embed_dim": 8, "condition_dim": 4,
    },
    "ChromaTransformer2DModel": {
        **_DUAL, "in_channels": 4, "joint_attention_dim": 32, "axes_dims_rope": (4, 4, 8), "approximator_num_channels": 8,
        "approximator_hidden_dim": 16, "approximator_layers": 1,
    },
    "AllegroTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4, "num_layers": 1,
        "cross_attention_dim": 48, "sample_width": 8, "sample_height": 8, "sample_frames": 4, "caption_channels": 48,
    },
    "OmniGenTransformer2DModel": {
        "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 32, "num_layers": 1,
        "in_channels": 4, "time_step_dim": 4, "rope_scaling": {"long_factor": [1, 2], "short_factor": [1, 2]},
    },
    "MiniMaxMusic3Transformer1DModel": {
        "in_channels": 8, "condition_dim": 16, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16,
        "ff_inner_dim": 32, "rotary_dim": 8, "fourier_embedding_dim": 16,
    },
    "StableAudio3DiTModel": {
        "io_channels": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "cond_token_dim": 16, "global_cond_dim": 16,
        "local_add_cond_dim": 4, "timestep_features_dim": 16, "num_memory_tokens": 3, "use_differential_attention": False,
    },
    "StableAudioDiTModel": {
        "sample_size": 16, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4,
        "num_key_value_attention_heads": 2, "out_channels": 4, "cross_attention_dim": 16, "time_proj_dim": 16,
        "global_states_input_dim": 16, "cross_attention_input_dim": 16,
    },
}  # fmt: skip

FAST = (
    "UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel",
    "FluxTransformer2DModel", "Flux2Transformer2DModel", "WanTransformer3DModel", "HunyuanVideoTransformer3DModel",
    "ZImageTransformer2DModel", "CogVideoXTransformer3DModel", "Lumina2Transformer2DModel",
)  # fmt: skip
"""Those of the normal suite, one for every way blocks are made; the others are slow together."""


def make(kind: str, config: dict[str, Any] | None = None) -> nn.Module:
    """A model with random weights, none of them zero."""
    import diffusers

    torch.manual_seed(0)
    model = (
        getattr(diffusers, kind).from_config(CONFIGS[kind] if config is None else config).eval().requires_grad_(False)
    )
    for name, parameter in model.named_parameters():
        # Gates and output layers that start at zero would hide everything behind them.
        if not parameter.any() and not name.endswith("bias"):
            nn.init.normal_(parameter, std=0.05)
    return model


def calls(model: nn.Module, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Arguments to try the model with, the tokens random: image from `seed`, all else always the same."""
    from eigenbank.builders.discovery.inputs import attempts

    for attempt in attempts(model):
        yield filled(attempt.arguments(), seed)


def filled(arguments: dict[str, Any], seed: int) -> dict[str, Any]:
    """Arguments with random tokens, the image's from `seed`."""
    return {name: _filled(value, name, seed) for name, value in arguments.items()}


def _filled(value: Any, name: str, seed: int) -> Any:
    from eigenbank.builders.discovery.token_tags import tags_of

    if isinstance(value, Tensor):
        tags = tags_of(value)
        if tags is None or not value.is_floating_point():
            return value.clone()
        image = bool(((tags & 3) == 1).any())
        generator = torch.Generator().manual_seed(seed if image else sum(map(ord, name)))
        return torch.randn(value.shape, generator=generator)
    if isinstance(value, list):
        return [_filled(each, name, seed) for each in value]
    return value


def layers_of(model: nn.Module) -> list[Layer]:
    """The layers discovery finds in a model of that config."""
    return list(_layers(type(model).__name__))


@cache
def _layers(kind: str) -> tuple[Layer, ...]:
    from eigenbank.builders.discovery.families import discover

    return tuple(discover({"_class_name": kind, **CONFIGS[kind]}).layers)


def bank_of(model: nn.Module, layers: list[Layer], length: float = 2.0) -> DirectionSet:
    """A bank of the first eigenvector of each layer's W_V, whose tokens are said to be `length` long at every site."""
    from eigenbank.registry.recipes import CASTS, gram, weights_digest

    recipe = Recipe(matrix="value")
    said: dict[Site, TokenLength] = dict.fromkeys(get_args(Site), TokenLength(length=length, source="calibration"))
    digested, vectors, records = [], {}, []
    for layer in layers:
        weights = {role: part.take(model.get_parameter(part.tensor)) for role, part in layer.tensors.items()}
        digests = {cast: weights_digest(weights, cast) for cast in CASTS}
        digested.append(layer.model_copy(update={"lengths": said, "digests": digests}))
        matrix = gram(recipe, {role: weight.double() for role, weight in weights.items() if weight.ndim > 1}, layer)
        vectors[f"{layer.name}/value"] = torch.linalg.eigh(matrix).eigenvectors[:, -1:].T.float().contiguous()
        records.append(DirectionRecord(layer=layer.name, recipe=recipe, rank=0, eigenvalue=1, share=0.1, gap=None))
    manifest = Manifest(
        checkpoint=Checkpoint(model_id="zoo/tiny", denoiser=type(model).__name__),
        created="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
        builder="the zoo",
        layers=tuple(digested),
        directions=tuple(records),
    )
    return DirectionSet(manifest, vectors=vectors)
