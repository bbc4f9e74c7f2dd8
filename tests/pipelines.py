"""Every pipeline class of diffusers that can be made offline: built, steered, called, and restored.

A pipeline is made from its own signatures: each component by the class it is annotated with, tiny and random; text
encoders are left out and their embeddings made up; each argument of the call by its name. `SPECIAL` has what a class
needs besides. `python tests/pipelines.py` writes the table in docs/pipelines.md.
"""

import gc
import inspect
import re
import signal
import sys
import tempfile
import traceback
import typing
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import zoo
from torch import Tensor, nn

SIZE, TEXT = 32, 6
OMIT = object()
"""In a call's arguments: leave this one out."""
_BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
_UNET = {**zoo._UNET, **_BLOCKS}

_LATENTS = {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
_WAN = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16, "out_channels": 16, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32,
    "num_layers": 2, "rope_max_seq_len": 32,
}  # fmt: skip
_HUNYUAN = {
    "in_channels": 4,
    "out_channels": 4,
    "text_embed_dim": 16,
    "num_refiner_layers": 1,
    "num_attention_heads": 2,
    "num_layers": 1,
}
_CONTROL = {
    "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 8, "cross_attention_dim": 16,
    "down_block_types": _BLOCKS["down_block_types"], "conditioning_embedding_out_channels": (8, 8),
}  # fmt: skip
_ROPE = {
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "num_layers": 1,
    "num_single_layers": 1,
    "joint_attention_dim": 32,
    "axes_dims_rope": [0, 4, 4],
}


def _blocks(kind: str, count: int = 4) -> dict[str, Any]:
    """A coder of `count` blocks, eight channels wide."""
    return {
        "down_block_types": (kind.format("Down"),) * count, "up_block_types": (kind.format("Up"),) * count,
        "block_out_channels": (8,) * count, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
    }  # fmt: skip


CONFIGS: dict[str, dict[str, Any]] = {
    **zoo.CONFIGS,
    "UNet2DModel": {**zoo.CONFIGS["UNet2DModel"], "in_channels": 3, "out_channels": 3},
    "WanTransformer3DModel": _WAN, "SkyReelsV2Transformer3DModel": _WAN,
    "AnyFlowTransformer3DModel": {**_WAN, "gate_value": 0.25, "deltatime_type": "r"},
    "AnyFlowFARTransformer3DModel": {
        **_WAN, "gate_value": 0.25, "deltatime_type": "r", "compressed_patch_size": (1, 4, 4), "full_chunk_limit": 3, "chunk_partition": (1, 1),
    },
    "WanVACETransformer3DModel": {**_WAN, "num_layers": 3, "vace_layers": [0, 2], "vace_in_channels": 96},
    "ChronoEditTransformer3DModel": {**_WAN, "in_channels": 36, "image_dim": 16},
    "WanAnimateTransformer3DModel": {
        **_WAN, "in_channels": 36, "latent_channels": 16, "image_dim": 16, "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
        "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 16, "face_encoder_hidden_dim": 16,
        "face_encoder_num_heads": 2, "inject_face_latents_blocks": 2,
    },
    "HeliosTransformer3DModel": {
        **{key: value for key, value in _WAN.items() if key != "rope_max_seq_len"}, "rope_dim": (4, 4, 4), "has_multi_term_memory_patch": True,
        "guidance_cross_attn": True, "zero_history_timestep": True, "is_amplify_history": False,
    },
    "CogVideoXTransformer3DModel": {**zoo.CONFIGS["CogVideoXTransformer3DModel"], "sample_width": 4, "sample_height": 4, "sample_frames": 5},
    "ConsisIDTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 8, "out_channels": 4, "time_embed_dim": 2, "text_embed_dim": 16,
        "num_layers": 1, "sample_width": 4, "sample_height": 4, "sample_frames": 5, "max_text_seq_length": TEXT,
        "use_rotary_positional_embeddings": True, "cross_attn_interval": 1, "is_train_face": False,
    },
    "BriaTransformer2DModel": {**_ROPE, "in_channels": 4, "pooled_projection_dim": None},
    "BriaFiboTransformer2DModel": {**_ROPE, "in_channels": 16, "pooled_projection_dim": None, "joint_attention_dim": 64, "text_encoder_dim": 32},
    "OvisImageTransformer2DModel": {**_ROPE, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "axes_dims_rope": (4, 4, 8)},
    "LongCatImageTransformer2DModel": {**_ROPE, "attention_head_dim": 16, "in_channels": 4, "axes_dims_rope": (4, 4, 8), "pooled_projection_dim": 32},
    "CogView3PlusTransformer2DModel": {
        "in_channels": 4, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "out_channels": 4, "text_embed_dim": 16,
        "time_embed_dim": 8, "condition_dim": 4, "pos_embed_max_size": 8, "sample_size": 8,
    },
    "CosmosTransformer3DModel": {
        "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "mlp_ratio": 2,
        "text_embed_dim": 32, "adaln_lora_dim": 4, "max_size": (4, 32, 32), "rope_scale": (2.0, 1.0, 1.0), "extra_pos_embed_type": "learnable",
    },
    "EasyAnimateTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 2, "text_embed_dim": 16,
        "num_layers": 2, "mmdit_layers": 1, "patch_size": 2, "sample_width": 16, "sample_height": 16,
    },
    "DreamLiteUNetModel": {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "cross_attention_dim": 16, "attention_head_dim": 8,
        "layers_per_block": 1, "norm_num_groups": 8, "down_block_types": ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
    },
    "Ideogram4Transformer2DModel": {
        "in_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "intermediate_size": 32, "adaln_dim": 8,
        "llm_features_dim": 16, "mrope_section": (2, 1, 1),
    },
    "ErnieImageTransformer2DModel": {
        "hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 32, "in_channels": 4, "out_channels": 4, "text_in_dim": 16,
        "rope_axes_dim": (4, 6, 6),
    },
    "GlmImageTransformer2DModel": {
        "in_channels": 4, "out_channels": 4, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "text_embed_dim": 16,
        "time_embed_dim": 16, "condition_dim": 8, "prior_vq_quantizer_codebook_size": 128,
    },
    "HiDreamImageTransformer2DModel": {
        "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4,
        "caption_channels": [32, 16], "text_emb_dim": 64, "num_routed_experts": 4, "num_activated_experts": 2, "axes_dims_rope": (4, 2, 2),
        "max_resolution": (32, 32), "llama_layers": (0, 1), "patch_size": 2,
    },
    "HunyuanImageTransformer2DModel": {
        **_HUNYUAN, "attention_head_dim": 8, "num_single_layers": 1, "patch_size": (1, 1), "text_embed_2_dim": 16, "rope_axes_dim": (4, 4),
    },
    "HunyuanVideoTransformer3DModel": {
        **_HUNYUAN, "attention_head_dim": 10, "num_single_layers": 1, "patch_size": 1, "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4),
    },
    "HunyuanVideoFramepackTransformer3DModel": {
        **_HUNYUAN, "attention_head_dim": 10, "num_single_layers": 1, "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4),
        "image_condition_type": None, "has_image_proj": True, "image_proj_dim": 16, "has_clean_x_embedder": True,
    },
    "HunyuanVideo15Transformer3DModel": {
        **_HUNYUAN, "in_channels": 9, "attention_head_dim": 8, "mlp_ratio": 2.0, "patch_size": 1, "text_embed_2_dim": 16, "image_embed_dim": 16,
        "rope_axes_dim": (2, 2, 4), "target_size": 16, "task_type": "t2v",
    },
    "JoyImageEditTransformer3DModel": {
        "patch_size": [1, 2, 2], "in_channels": 16, "hidden_size": 32, "num_attention_heads": 2, "text_dim": 16, "num_layers": 1,
        "rope_dim_list": [4, 6, 6], "theta": 256,
    },
    "Kandinsky3UNet": {
        "time_embedding_dim": 4, "groups": 2, "attention_head_dim": 4, "layers_per_block": 3, "block_out_channels": (32, 64),
        "cross_attention_dim": 4, "encoder_hid_dim": 16,
    },
    "Kandinsky5Transformer3DModel": {
        "in_visual_dim": 16, "in_text_dim": 16, "in_text_dim2": 16, "time_dim": 16, "out_visual_dim": 16, "patch_size": (1, 2, 2), "model_dim": 16,
        "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (1, 1, 2), "visual_cond": False, "attention_type": "regular",
    },
    "Krea2Transformer2DModel": {
        "in_channels": 16, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32,
        "timestep_embed_dim": 8, "text_hidden_dim": 16, "num_text_layers": 3, "text_num_attention_heads": 2, "text_num_key_value_heads": 1,
        "text_intermediate_size": 16, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1, "axes_dims_rope": (4, 2, 2),
    },
    "LatteTransformer3DModel": {
        "sample_size": 8, "num_layers": 1, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 3, "caption_channels": 16,
        "in_channels": 4, "cross_attention_dim": 24, "out_channels": 8, "attention_bias": True, "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single", "norm_elementwise_affine": False,
    },
    "LuminaNextDiT2DModel": {
        "sample_size": 16, "hidden_size": 24, "num_layers": 2, "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 16, "ffn_dim_multiplier": None,
        "cross_attention_dim": 16,
    },
    "LTXVideoTransformer3DModel": {**zoo.CONFIGS["LTXVideoTransformer3DModel"], "patch_size": 1},
    "MochiTransformer3DModel": {**zoo.CONFIGS["MochiTransformer3DModel"], "in_channels": 12},
    "MotifVideoTransformer3DModel": {
        "in_channels": 33, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "num_single_layers": 1,
        "patch_size": 1, "text_embed_dim": 16, "rope_axes_dim": (4, 4, 4),
    },
    "NucleusMoEImageTransformer2DModel": {
        "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 16,
        "axes_dims_rope": (8, 4, 4), "moe_enabled": False, "capacity_factors": [8.0, 8.0],
    },
    "PRXTransformer2DModel": {
        "patch_size": 1, "in_channels": 4, "context_in_dim": 8, "hidden_size": 8, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "axes_dim": [2, 2],
    },
    "SanaVideoTransformer3DModel": {
        "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 12, "cross_attention_dim": 24, "caption_channels": 16, "sample_size": 8, "rope_max_seq_len": 32,
    },
    "PriorTransformer": {"num_attention_heads": 2, "attention_head_dim": 12, "embedding_dim": 16, "num_layers": 1},
    "UNetSpatioTemporalConditionModel": {
        "block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 16, "cross_attention_dim": 16, "num_attention_heads": 4,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), "projection_class_embeddings_input_dim": 96,
        "addition_time_embed_dim": 32,
    },
    "I2VGenXLUNet": {
        "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 16,
        "num_attention_heads": 2, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    },
    "MotionAdapter": {"block_out_channels": (16, 32), "motion_layers_per_block": 1, "motion_norm_num_groups": 2, "motion_num_attention_heads": 4},
    "StableCascadeUNet": {
        "in_channels": 4, "out_channels": 4, "conditioning_dim": 16, "block_out_channels": (16, 16), "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1), "down_blocks_repeat_mappers": (1, 1), "up_blocks_repeat_mappers": (1, 1), "switch_level": (False,),
        "clip_image_in_channels": 16, "clip_text_in_channels": 16, "clip_text_pooled_in_channels": 16,
        "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
    },
    "BriaFibo2Transformer2DModel": {
        "in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "cap_feat_dim": 16, "injection_layer_ids": (1,),
        "perceiver_num_layers": 1, "min_num_gist_tokens": 4, "max_num_gist_tokens": 8, "gist_step": 2, "gist_min_text_len": 4,
        "gist_max_text_len": 16, "axes_dims": (8, 4, 4), "axes_lens": (64, 64, 64),
    },
    "Cosmos3OmniTransformer": {
        "head_dim": 16, "hidden_size": 32, "intermediate_size": 32, "latent_channel": 4, "patch_latent_dim": 16, "num_attention_heads": 2,
        "num_hidden_layers": 1, "num_key_value_heads": 1, "vocab_size": 64, "rope_axes_dim": (4, 2, 2),
    },
    "Flux3Transformer2DModel": {
        **_ROPE, "in_channels": 4, "cond_in_channels": 4, "attention_head_dim": 16, "joint_attention_dim": 16, "timestep_channels": 16,
        "axes_dims_rope": (4, 4, 4, 4),
    },
    "JoyImageEditPlusTransformer3DModel": {
        "in_channels": 4, "hidden_size": 32, "num_attention_heads": 2, "text_dim": 16, "num_layers": 1, "rope_dim_list": [4, 6, 6],
    },
    "QwenImage21Transformer2DModel": {
        "in_channels": 4, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "context_in_dim": 16,
        "axes_dims_rope": (4, 6, 6),
    },
    # Coders
    "AutoencoderKL": {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16, "scaling_factor": 1.0, "shift_factor": 0.0,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "AutoencoderTiny": {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)},
    "AutoencoderKLFlux2": {
        "down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",), "block_out_channels": (4,), "layers_per_block": 1,
        "latent_channels": 1, "norm_num_groups": 1, "use_quant_conv": False, "use_post_quant_conv": False,
    },
    "AutoencoderKLTemporalDecoder": {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2, "latent_channels": 4},
    "AutoencoderKLWan": {
        **_LATENTS, "base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
    },
    "AutoencoderKLQwenImage": {
        "base_dim": 24, "z_dim": 4, "dim_mult": [1, 2, 4], "num_res_blocks": 1, "temperal_downsample": [False, True],
        "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
    },
    "AutoencoderKLCogVideoX": {**_blocks("CogVideoX{}Block3D"), "temporal_compression_ratio": 4},
    "AutoencoderKLAllegro": {**_blocks("Allegro{}Block3D"), "temporal_compression_ratio": 4},
    "AutoencoderKLMagvit": {
        **_blocks("SpatialTemporal{}Block3D"), "down_block_types": ("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        "up_block_types": ("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3), "spatial_group_norm": False,
    },
    "AutoencoderKLHunyuanImage": {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 32), "layers_per_block": 1, "scaling_factor": 1.0, "spatial_compression_ratio": 2, "sample_size": 32},
    "AutoencoderKLHunyuanVideo": {**_blocks("HunyuanVideo{}Block3D"), "norm_num_groups": 4},
    "AutoencoderKLHunyuanVideo15": {
        "latent_channels": 4, "block_out_channels": (16, 16), "layers_per_block": 1, "spatial_compression_ratio": 4, "temporal_compression_ratio": 2,
        "downsample_match_channel": False, "upsample_match_channel": False,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8, "block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4, "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 5, "spatio_temporal_scaling": (True, True, False, False), "patch_size": 1, "encoder_causal": True,
        "decoder_spatio_temporal_scaling": (True, True, False, False), "decoder_inject_noise": (False,) * 5, "upsample_residual": (False,) * 4,
        "upsample_factor": (1,) * 4, "timestep_conditioning": False,
    },
    "AutoencoderDC": {
        "latent_channels": 4, "attention_head_dim": 2, "encoder_block_types": ("ResBlock", "EfficientViTBlock"), "encoder_block_out_channels": (8, 8),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"), "decoder_block_out_channels": (8, 8), "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)), "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1),
        "downsample_block_type": "conv", "upsample_block_type": "interpolate", "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu", "scaling_factor": 0.4,
    },
    "VQModel": {
        "block_out_channels": (8, 16), "latent_channels": 4, "norm_num_groups": 4, "num_vq_embeddings": 32,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    # What pipelines have besides
    "ControlNetModel": _CONTROL,
    "ControlNetUnionModel": {**_CONTROL, "num_control_type": 6, "num_trans_channel": 16, "num_trans_head": 2},
    "SparseControlNetModel": {
        "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 8, "cross_attention_dim": 16,
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"), "conditioning_embedding_out_channels": (8, 8), "concat_conditioning_mask": True, "conditioning_channels": 3,
        "use_simplified_condition_embedding": False,
    },
    "FluxControlNetModel": zoo.CONFIGS["FluxTransformer2DModel"],
    "SD3ControlNetModel": {key: value for key, value in zoo.CONFIGS["SD3Transformer2DModel"].items() if key != "dual_attention_layers"},
    "QwenImageControlNetModel": zoo.CONFIGS["QwenImageTransformer2DModel"],
    "SanaControlNetModel": zoo.CONFIGS["SanaTransformer2DModel"],
    "ZImageControlNetModel": {
        "control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 4, "add_control_noise_refiner": "control_noise_refiner",
        "dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
    },
    "HunyuanDiT2DControlNetModel": {
        **{key: value for key, value in zoo.CONFIGS["HunyuanDiT2DModel"].items() if key != "num_layers"}, "transformer_num_layers": 4,
    },
    "T2IAdapter": {"in_channels": 3, "channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 2, "adapter_type": "full_adapter"},
}  # fmt: skip
"""Tiny configs of components."""


@dataclass
class Special:
    """What a pipeline class needs that its signatures do not say: configs by component, other components, arguments."""

    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    after: Any = None


def _vision() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, image_size=224, patch_size=112, projection_dim=16,
    )).eval()  # fmt: skip


def _processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor()


class _Safe(nn.Module):
    """A safety checker that lets everything pass."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, _text: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def _scheduler(kind: str, **config: Any) -> Any:
    import diffusers

    return getattr(diffusers, kind)(**config)


_LOOKS = {"image_encoder": _vision, "feature_extractor": _processor, "image_processor": _processor}
_XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 40}
_MASKS = ("prompt_attention_mask", "negative_prompt_attention_mask")


def _text() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, projection_dim=16, vocab_size=100,
    )).eval()  # fmt: skip


def _siglip() -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, image_size=32, patch_size=16,
    )).eval()  # fmt: skip


def _siglip_processor() -> Any:
    from transformers import SiglipImageProcessor

    return SiglipImageProcessor(size={"height": 32, "width": 32})


def _guider(kind: str) -> Any:
    from diffusers import guiders

    return getattr(guiders, kind)()


def _xs() -> Any:
    from diffusers import ControlNetXSAdapter

    return ControlNetXSAdapter.from_unet(
        make("UNet2DConditionModel", {"layers_per_block": 2}),
        size_ratio=0.5,
        conditioning_embedding_out_channels=(8, 8),
    )


def _xs_xl() -> Any:
    from diffusers import ControlNetXSAdapter

    return ControlNetXSAdapter.from_unet(
        make("UNet2DConditionModel", {**_XL, "layers_per_block": 2}),
        size_ratio=0.5,
        conditioning_embedding_out_channels=(8, 8),
    )


def _frames() -> list[Any]:
    return [picture(number) for number in range(5)]


_ONES = torch.ones(1, TEXT, dtype=torch.long)
_SECOND = {
    "prompt_embeds_2": lambda _: embeds(1, TEXT, 16), "negative_prompt_embeds_2": lambda _: embeds(1, TEXT, 16, seed=2),
    "prompt_embeds_mask_2": _ONES, "negative_prompt_embeds_mask_2": _ONES,
}  # fmt: skip
_IF = {
    "in_channels": 3, "cross_attention_dim": 32, "out_channels": 6, "encoder_hid_dim": 16, "addition_embed_type": "text", "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm", "resnet_time_scale_shift": "scale_shift", "act_fn": "gelu", "attention_head_dim": 8,
    "block_out_channels": (32, 64), "norm_num_groups": 32,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), "time_embedding_act_fn": "gelu",
}  # fmt: skip
_KANDINSKY = {
    "in_channels": 4, "out_channels": 8, "encoder_hid_dim": 16, "encoder_hid_dim_type": "image_proj", "addition_embed_type": "image",
    "resnet_time_scale_shift": "scale_shift", "attention_head_dim": 8, "block_out_channels": (32, 64), "norm_num_groups": 32,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
}  # fmt: skip
_DDPM = {"scheduler": lambda: _scheduler("DDPMScheduler", variance_type="learned_range")}
_DEEP = {
    "block_out_channels": (8,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
_IMAGE = {key: lambda _: embeds(1, 16) for key in ("image_embeds", "negative_image_embeds")}


def _wordless(pipe: Any) -> None:
    pipe.empty_text_embedding = embeds(1, TEXT, 16)


SPECIALS: list[tuple[str, Special]] = [
    (r".*XL.*", Special(configs={"unet": _XL, "controlnet": _XL})),
    (r"(Flux|Chroma|BriaPipe|VisualCloze|LongCatImage|Ovis).*", Special(configs={"vae": {"latent_channels": 1}})),
    (r"Flux2.*", Special(configs={"vae": {}}, call={"height": 64, "width": 64})),
    (r"Flux2(?!KleinInpaint).*", Special(call={"image": OMIT})),
    (r"FluxKontext.*", Special(call={"max_area": SIZE**2, "_auto_resize": False})),
    (r"FluxControl(Img2Img|Inpaint)?Pipeline", Special(configs={"transformer": {"in_channels": 8, "out_channels": 4}})),
    (r"FluxFillPipeline", Special(configs={"transformer": {"in_channels": 24, "out_channels": 4}})),
    (r"Chroma.*", Special(call=dict.fromkeys(_MASKS, torch.ones(1, TEXT)))),
    (
        r"(Allegro|Latte|PixArt|Lumina|Sana|HunyuanDiT|PRX|Ovis).*",
        Special(call={"negative_prompt": None, "clean_caption": False, "use_resolution_binning": False}),
    ),
    (r"DiTPipeline", Special(configs={"transformer": {"num_embeds_ada_norm": 1000, "norm_type": "ada_norm_zero"}})),
    (
        r"(DDIM|DDPM|DiT|PNDM|ConsistencyModel|LDM|LDMSuperResolution|RePaint|ScoreSdeVe|KarrasVe|StableDiffusionLDM3D|IF.*|Kandinsky.*|Marigold.*)Pipeline",
        Special(call={"output_type": "np"}),
    ),
    (r"Cosmos.*", Special(parts={"safety_checker": _Safe}, call={"video": OMIT})),
    (r"CogVideoX.*|ConsisID.*", Special(parts={"scheduler": lambda: _scheduler("CogVideoXDDIMScheduler")}, call={"control_video": lambda _: _frames()})),
    (r"CogVideoX(ImageToVideo|FunControl).*|ConsisID.*", Special(configs={"transformer": {"in_channels": 8}})),
    (r"CogView4Control.*", Special(configs={"transformer": {"in_channels": 8}})),
    (r"StableVideoDiffusionPipeline|I2VGenXLPipeline|StableDiffusionImageVariationPipeline|Wan(ImageToVideo|Animate)Pipeline|ChronoEdit.*|SkyReelsV2ImageToVideo.*", Special(parts=_LOOKS)),
    (r"WanImageToVideo.*|SkyReelsV2ImageToVideo.*", Special(configs={"transformer": {"in_channels": 36, "image_dim": 16}})),
    (r"WanAnimate.*", Special(call={key: lambda _: _frames() for key in ("pose_video", "face_video")})),
    (r"SkyReelsV2DiffusionForcing.*", Special(call={"prompt": None})),
    (r"AnyFlow.*|Helios.*", Special(call={"video": OMIT})),
    (r"AnyFlow.*", Special(call={"guidance_scale": 2.0})),
    (r"Helios.*", Special(call={"image": OMIT})),
    (r".*InstructPix2PixPipeline|Marigold.*", Special(configs={"unet": {"in_channels": 8}})),
    (r"PIAPipeline", Special(configs={"unet": {"in_channels": 9}})),
    (r"QwenImage.*", Special(call={"control_mask": lambda _: picture(1).convert("L")})),
    (r"StableDiffusion3ControlNetInpainting.*", Special(configs={"controlnet": {"extra_conditioning_channels": 1}}, call={"control_mask": lambda _: picture(1).convert("L")})),
    (r"QwenImageControlNetInpaint.*", Special(configs={"controlnet": {"extra_condition_channels": 4}})),
    (r"StableDiffusion3InpaintPipeline", Special(configs={"transformer": {"in_channels": 16, "out_channels": 16}, "vae": {"latent_channels": 16}})),
    (r"HunyuanDiT.*", Special(configs={"vae": _DEEP}, call={
        "height": 64,
                "width": 64,
                "prompt_embeds_2": lambda _: embeds(1, TEXT, 24), "negative_prompt_embeds_2": lambda _: embeds(1, TEXT, 24, seed=2),
        "prompt_attention_mask_2": _ONES, "negative_prompt_attention_mask_2": _ONES,
    })),
    (r"HunyuanImage.*|HunyuanVideo15.*", Special(call=_SECOND)),
    (r"HunyuanImagePipeline", Special(parts={key: lambda: _guider("AdaptiveProjectedMixGuidance") for key in ("guider", "ocr_guider")})),
    (r"HunyuanVideo15.*|MotifVideo.*", Special(parts={"guider": lambda: _guider("ClassifierFreeGuidance")})),
    (r"HunyuanSkyreels.*", Special(configs={"transformer": {"in_channels": 8}})),
    (r"HunyuanVideoImageToVideo.*", Special(configs={"transformer": {"in_channels": 9, "image_condition_type": "latent_concat"}})),
    (r"HunyuanVideoFramepack.*", Special(parts={"image_encoder": _siglip, "feature_extractor": _siglip_processor})),
    (r"HiDream.*", Special(call={
        **{key: lambda _: embeds(1, TEXT, 32) for key in ("prompt_embeds_t5", "negative_prompt_embeds_t5")},
        **{key: lambda _: embeds(2, 1, TEXT, 16) for key in ("prompt_embeds_llama3", "negative_prompt_embeds_llama3")},
        **{key: lambda _: embeds(1, 64) for key in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")},
    })),
    (r"GlmImage.*", Special(call={"prior_token_ids": torch.zeros(1, 64, dtype=torch.long), "image": OMIT})),
    (r"IF.*", Special(configs={"unet": _IF}, parts={**_DDPM, "image_noising_scheduler": lambda: _scheduler("DDPMScheduler")})),
    (r"IF.*SuperResolution.*", Special(configs={"unet": {"in_channels": 6, "class_embed_type": "timestep"}}, call={"original_image": lambda _: picture(3)})),
    (r"Kandinsky3.*", Special(call={"attention_mask": _ONES, "negative_attention_mask": _ONES})),
    (r"Kandinsky5.*", Special(call={
        **{key: lambda _: embeds(1, TEXT, 16) for key in ("prompt_embeds_qwen", "negative_prompt_embeds_qwen")},
        **{key: lambda _: embeds(1, 16) for key in ("prompt_embeds_clip", "negative_prompt_embeds_clip")},
        **dict.fromkeys(("prompt_cu_seqlens", "negative_prompt_cu_seqlens"), torch.tensor([0, TEXT], dtype=torch.int32)),
    })),
    (r"Kandinsky5I2.*", Special(configs={"transformer": {"visual_cond": True}})),
    (r"KandinskyV22(Img2Img|Inpaint|Controlnet|ControlnetImg2Img)?Pipeline", Special(configs={"unet": _KANDINSKY}, parts=_DDPM, call={**_IMAGE, "hint": lambda _: embeds(1, 3, SIZE, SIZE)})),
    (r"KandinskyV22InpaintPipeline", Special(configs={"unet": {"in_channels": 9}})),
    (r"KandinskyV22Controlnet.*", Special(configs={"unet": {"in_channels": 8, "addition_embed_type": "image_hint"}})),
    (r"Krea2.*", Special(call={"prompt_embeds": lambda _: embeds(1, TEXT, 3, 16), "negative_prompt_embeds": lambda _: embeds(1, TEXT, 3, 16, seed=2)})),
    (r"ErnieImage.*", Special(call={key: lambda _, seed=seed: [embeds(TEXT, 16, seed=seed)] for seed, key in enumerate(("prompt_embeds", "negative_prompt_embeds"), 1)})),
    (r"LDMPipeline", Special(configs={"unet": {"in_channels": 4, "out_channels": 4}})),
    (r"LDMSuperResolution.*", Special(configs={"unet": {"in_channels": 6}, "vqvae": {"latent_channels": 3}})),
    (r"Marigold.*", Special(call={"processing_resolution": 0}, after=_wordless)),
    (r"PNDMPipeline", Special(call={"num_inference_steps": 10})),
    (r"PixArtAlpha.*", Special(parts={"scheduler": lambda: _scheduler("DDIMScheduler")})),
    (r"PixArtSigmaPAG.*", Special(parts={"pag_applied_layers": ["blocks.0"]})),
    (r"Sana(Image|Video).*", Special(parts={"vae": lambda: make("AutoencoderKLWan", {})}, call={"frames": 5})),
    (r"SanaSprint.*", Special(configs={"transformer": {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}}, parts={"scheduler": lambda: _scheduler("SCMScheduler")})),
    (r"StableCascade.*", Special(call={
        **{key: lambda _: embeds(1, 1, 16) for key in ("prompt_embeds_pooled", "negative_prompt_embeds_pooled")},
        "image_embeddings": lambda _: embeds(1, 16, 1, 1), "images": OMIT,
    })),
    (r".*ControlNetXSPipeline", Special(configs={"unet": {"layers_per_block": 2}}, parts={"controlnet": _xs}, call={"image": lambda _: picture(2)})),
    (r".*XLControlNetXSPipeline", Special(parts={"controlnet": _xs_xl})),
    (r".*ControlNetUnion.*", Special(call={"control_mode": [0], "control_image": lambda _: [picture(2)]})),
    (r"AnimateDiff.*ControlNet.*", Special(call={"conditioning_frames": lambda _: _frames()})),
    (r"AnimateDiffSparse.*", Special(call={"conditioning_frames": lambda _: [picture(2)]})),
    (r"StableDiffusionDepth2Img.*", Special(configs={"unet": {"in_channels": 5}}, call={"depth_map": lambda _: embeds(1, SIZE, SIZE)})),
    (r"StableDiffusionLDM3D.*", Special(configs={"vae": {"in_channels": 6, "out_channels": 6}})),
    (r"StableDiffusionUpscale.*", Special(configs={"unet": {"in_channels": 7, "num_class_embeds": 1000}})),
    (r"StableVideoDiffusion.*", Special(configs={"unet": {"in_channels": 8}})),
    (r"ZImageControlNetInpaint.*", Special(configs={"controlnet": {"control_in_dim": 9}})),
    (r"StableCascade.*|HunyuanImageRefiner.*|QwenImageLayered.*|DreamLite.*|LTXI2V.*", Special(parts={"text_encoder": _text})),
    (r"ZImage.*", Special(call={key: lambda _, seed=seed: [embeds(TEXT, 16, seed=seed)] for seed, key in enumerate(("prompt_embeds", "negative_prompt_embeds"), 1)})),
]  # fmt: skip


def special(name: str) -> Special:
    """What a class needs, of all patterns that it matches."""
    found = Special()
    for pattern, each in SPECIALS:
        if re.fullmatch(pattern, name):
            configs = {key: {**found.configs.get(key, {}), **value} for key, value in each.configs.items()}
            found = Special(
                {**found.configs, **configs},
                {**found.parts, **each.parts},
                {**found.call, **each.call},
                each.after or found.after,
            )
    return found


def classes() -> dict[str, Any]:
    """The pipeline classes that diffusers exports and can import here."""
    import diffusers

    found = {}
    for name in dir(diffusers):
        kind = getattr(diffusers, name, None) if "Pipeline" in name else None
        if (
            isinstance(kind, type)
            and issubclass(kind, diffusers.DiffusionPipeline)
            and kind is not diffusers.DiffusionPipeline
        ):
            found[name] = kind
    return found


def types(kind: Any) -> dict[str, list[str]]:
    """The names of the classes each component is annotated with."""
    found = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        of = parameter.annotation
        options = typing.get_args(of) or (of,)
        found[name] = [each.__name__ if isinstance(each, type) else str(each).split(".")[-1] for each in options]
    return found


def component(name: str, options: list[str], needs: Special) -> Any:
    """A component, None where it can be left out."""
    import diffusers

    if name in needs.parts:
        part = needs.parts[name]
        return part() if callable(part) and not isinstance(part, nn.Module) else part
    for option in options:
        if option in CONFIGS:
            return make(option, needs.configs.get(name, {}))
        if option.endswith("Scheduler") and hasattr(diffusers, option):
            return getattr(diffusers, option)(**needs.configs.get(name, {}))
        if "KarrasDiffusionSchedulers" in option:
            return diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    return None


def make(kind: str, config: dict[str, Any]) -> nn.Module:
    """A tiny model of that class, as `zoo.make` makes it."""
    return zoo.make(kind, {**CONFIGS[kind], **config})


def pipeline(name: str) -> Any:
    """A tiny pipeline of that class."""
    import diffusers

    kind, needs = getattr(diffusers, name), special(name)
    parts = {}
    for part, options in types(kind).items():
        required = inspect.signature(kind.__init__).parameters[part].default is inspect.Parameter.empty
        if required or part in needs.parts or part in ("transformer", "unet"):
            parts[part] = component(part, options, needs)
            if parts[part] is None and part in ("transformer", "unet"):
                message = f"no small {' or '.join(options)} is known"
                raise LookupError(message)
    if "requires_safety_checker" in inspect.signature(kind.__init__).parameters:
        parts["requires_safety_checker"] = False
    pipe = kind(**parts)
    if needs.after:
        needs.after(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def denoiser(pipe: Any) -> nn.Module:
    """The pipeline's first denoiser."""
    from eigenbank.loaders.plugins import target_of

    return next(iter(target_of(pipe).denoisers.values()))


def embeds(*shape: int, seed: int = 1) -> Tensor:
    """What a text encoder might have made."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int = 0) -> Any:
    """A picture of noise."""
    from PIL import Image

    values = torch.randint(0, 256, (SIZE, SIZE, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def arguments(pipe: Any, name: str) -> dict[str, Any]:
    """What a pipeline is called with, by the names its call takes. `width` and `pooled` of text from its denoiser's config."""
    config = dict(denoiser(pipe).config)
    width = next((config[key] for key in _WIDTHS if isinstance(config.get(key), int)), 16)
    pooled = next((config[key] for key in _POOLED if isinstance(config.get(key), int)), 16)
    pool: dict[str, Any] = {
        "prompt_embeds": embeds(1, TEXT, width), "negative_prompt_embeds": embeds(1, TEXT, width, seed=2),
        "pooled_prompt_embeds": embeds(1, pooled, seed=3), "negative_pooled_prompt_embeds": embeds(1, pooled, seed=4),
        **dict.fromkeys(("prompt_embeds_mask", "prompt_attention_mask", "prompt_mask"), torch.ones(1, TEXT, dtype=torch.long)),
        **dict.fromkeys(("negative_prompt_embeds_mask", "negative_prompt_attention_mask"), torch.ones(1, TEXT, dtype=torch.long)),
        "image": picture(), "mask_image": picture(1).convert("L"), "control_image": picture(2), "video": [picture(n) for n in range(5)],
        "height": SIZE, "width": SIZE, "num_frames": 5, "num_inference_steps": 1, "output_type": "latent", "max_sequence_length": TEXT,
        "class_labels": [1], "strength": 1.0, "true_cfg_scale": 2.0,
    }  # fmt: skip
    names = _names(pipe)
    made = {key: value for key, value in pool.items() if key in names}
    given = special(name).call
    made |= {key: value(pipe) if callable(value) else value for key, value in given.items() if key in names}
    return {key: value for key, value in made.items() if value is not OMIT}


def _names(pipe: Any) -> Any:
    return inspect.signature(type(pipe).__call__).parameters


_WIDTHS = (
    "joint_attention_dim",
    "caption_channels",
    "context_in_dim",
    "encoder_hid_dim",
    "cross_attention_dim",
    "text_embed_dim",
    "text_dim",
    "cap_feat_dim",
)
_POOLED = ("pooled_projection_dim",)


def call(pipe: Any, name: str, prompt_seed: int | None = None, prompts: tuple[str, ...] = ()) -> Tensor:
    """What the pipeline makes, as one tensor; with other `prompts`, or the prompt, where a seed for it is given."""
    given = arguments(pipe, name)
    if prompt_seed is not None:
        changed = prompts or [key for key in given if key.startswith(_PROMPT) and "mask" not in key] or ["image"]
        given |= {key: _other(given[key], prompt_seed) for key in changed if given.get(key) is not None}
    if "generator" in _names(pipe):
        given["generator"] = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    with torch.no_grad():
        return tensor(pipe(**given))


def tensor(result: Any) -> Tensor:
    """A pipeline's output as a tensor."""
    import numpy as np

    if isinstance(result, Tensor):
        return result
    if isinstance(result, np.ndarray):
        return torch.from_numpy(result)
    if hasattr(result, "convert"):
        return torch.from_numpy(np.asarray(result).copy())
    first = next(value for value in (result.values() if isinstance(result, dict) else result) if value is not None)
    return tensor(first)


RECIPES = ("output-value", "output-value:output")


def check(name: str, pipe: Any, bank: Any) -> str | None:
    """Steer, call and restore a pipeline: None where all of it works, else what does not.

    Every kind of layer is steered by itself, with both default recipes: something that never acts must not hide behind the
    others.
    """
    import eigenbank as eb

    before, traces = call(pipe, name), attributes(pipe)
    if not torch.equal(call(pipe, name), before):
        return "draws another picture each time"
    kinds = {(layer.kind, _place(path)): path for path, layer in reversed(bank.layers.items())}
    for number, recipe in enumerate(RECIPES):
        # The first layer of all is steered with both recipes, the others take turns.
        for place, path in enumerate(kinds.values()):
            direction = next((each for each in bank if each.layer == path and each.recipe.slug == recipe), None)
            if direction is None or (place and place % 2 != number):
                continue
            with eb.steer(pipe, {direction: 4.0}):
                if torch.equal(call(pipe, name), before):
                    return f"{path} does not act ({recipe})"
        if not torch.equal(call(pipe, name), before) or attributes(pipe) != traces:
            return f"{recipe} leaves a trace"
    return None


_banks: dict[str, Any] = {}


def built(pipe: Any) -> Any:
    """The directions of the pipeline's first denoiser. Those of one config have the same weights: see `zoo.make`."""
    key = repr(sorted(denoiser(pipe).config.items(), key=str))
    if key not in _banks:
        _banks[key] = _built(pipe)
    return _banks[key]


def _built(pipe: Any) -> Any:
    import eigenbank as eb

    with tempfile.TemporaryDirectory() as folder:
        denoiser(pipe).save_pretrained(folder)
        return eb.build(folder, top_k=1)


def branches(name: str, pipe: Any, bank: Any) -> str:
    """How a pipeline guides, as far as an edit of one branch moves exactly the rows that the witness says are that branch's.

    The witness: conditional are those rows of the denoiser's batches that another prompt changes.
    """
    import eigenbank as eb
    from eigenbank.schemas.errors import EigenbankError

    plain = passes(pipe, name)
    conditional = moved(plain, passes(pipe, name, prompt_seed=9))
    if all(map(all, conditional)) and _NEGATIVE in _names(pipe):
        # A ControlNet may carry the prompt into both branches: then the negative one tells.
        negative = moved(plain, passes(pipe, name, prompt_seed=9, prompts=(_NEGATIVE,)))
        conditional = [[not row for row in rows] for rows in negative]
    each = [row for rows in conditional for row in rows]
    if not any(each):
        return "no prompt"
    direction = next(iter(bank))
    found = {}
    for branch in ("cond", "uncond"):
        try:
            with eb.steer(pipe, {direction: 4.0}, branch=branch):  # type: ignore[arg-type]
                found[branch] = moved(plain, passes(pipe, name))
        except EigenbankError as error:
            if not (branch == "uncond" and all(each) and "no unconditional branch" in str(error)):
                return f"refused: {error}"
    if all(each):
        nothing = [[False] * len(rows) for rows in conditional]
        whole = found["cond"] == conditional and found.get("uncond", nothing) == nothing
        return "no guidance" if whole else f"wrong: {conditional} {found}"
    if found != {"cond": conditional, "uncond": [[not row for row in rows] for rows in conditional]}:
        return f"wrong: {conditional} {found}"
    way = "batched" if any(any(rows) and not all(rows) for rows in conditional) else "in turn"
    own = "guider" if hasattr(pipe, "guider") else "true CFG" if "true_cfg_scale" in _names(pipe) else ""
    return f"{way}, {own}" if own else way


_NEGATIVE = "negative_prompt_embeds"
_PROMPT = ("prompt_embeds", "pooled_prompt_embeds", "class_labels", "image_embeds")
"""How the arguments begin that a prompt is; without any, a picture is the prompt."""


def passes(pipe: Any, name: str, **other: Any) -> list[list[Tensor]]:
    """What the pipeline's denoiser makes of each row of its batches, call after call. `other` goes to `call`."""
    seen: list[list[Tensor]] = []

    def listen(_module: nn.Module, _args: Any, output: Any) -> None:
        first = output if isinstance(output, (Tensor, list)) else output[0]
        seen.append([row.clone() for row in first])

    hook = denoiser(pipe).register_forward_hook(listen)
    try:
        call(pipe, name, **other)
    finally:
        hook.remove()
    return seen


def moved(before: list[list[Tensor]], after: list[list[Tensor]]) -> list[list[bool]]:
    """Which rows of which calls are others now."""
    return [[not torch.equal(*rows) for rows in zip(*calls, strict=True)] for calls in zip(before, after, strict=True)]


def _other(value: Any, seed: int) -> Any:
    """Another prompt of the same shape."""
    if isinstance(value, list):
        return [_other(each, seed) for each in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)).to(value.dtype)
    return picture(seed) if hasattr(value, "convert") else value + 1


def _place(path: str) -> tuple[str, str]:
    """Where in a denoiser a layer is, as far as it makes a difference."""
    first, last = path.split(".")[0], path.split(".")[-1]
    return ("" if first in ("down_blocks", "mid_block", "up_blocks") else first, last)


def attributes(pipe: Any) -> list[tuple[str, frozenset[str]]]:
    """What the modules of a pipeline's denoiser hold."""
    return [(name, frozenset(vars(module))) for name, module in denoiser(pipe).named_modules()]


def tried(name: str) -> tuple[str, str]:
    """`works`, or why not; and how the branches of its guidance do, as `branches` says."""
    made: list[Any] = []

    def verdict(check: Any) -> str:
        from eigenbank.schemas.errors import EigenbankError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return check() or "works"
        except EigenbankError as error:
            return f"refused: {error}"
        except Exception as error:  # whatever a pipeline raises that misses something
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
            said = str(error).splitlines()[0] if str(error) else ""
            return (
                f"not made here: {type(error).__name__} {said} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
            )

    def first() -> str | None:
        pipe = pipeline(name)
        made.extend((pipe, built(pipe)))
        return check(name, *made)

    found = verdict(first)
    return found, verdict(lambda: branches(name, *made)) if found == "works" else "–"


TABLE = Path(__file__).parent.parent / "docs" / "pipelines.md"


def written() -> dict[str, tuple[str, str]]:
    """Class → its verdicts in the table as it is."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.is_file() else []
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| ")]
    return {
        name: (row[0], row[1]) for row in rows if len(row) == 3 for name in row[2].split(", ") if "Pipeline" in name
    }


_WORDS = (
    (r"not made here: .*", "not made here"),  # why is printed when the class is tried
    (r"refused: a \w+ has no denoiser eigenbank knows.*", "refused: it has no denoiser of tokens"),
    (r"refused: a pass of this denoiser does not show.*", "refused: a pass does not show which tokens are the image's"),
    (
        r"refused: it could not be decided which layers.*",
        "refused: which layers are self-attention could not be decided",
    ),
    (
        r"refused: the pipeline's controlnet runs the edited layers.*",
        "refused: a ControlNet runs the edited layers, too",
    ),
    (r"refused: a \w+ does not say which of its calls.*", "refused: its calls do not say which is conditional"),
)
"""Verdicts as they are printed, and as they stand in the page."""


def plain(verdict: str) -> str:
    """A verdict as it stands in the page."""
    for pattern, words in _WORDS:
        verdict = re.sub(f"^{pattern}$", words, verdict, flags=re.DOTALL)
    return verdict.replace("|", "/")


def write(verdicts: dict[str, tuple[str, str]]) -> None:
    """Write docs/pipelines.md: the classes of each verdict."""
    import diffusers

    groups: dict[tuple[str, str], list[str]] = {}
    for name, row in sorted(verdicts.items()):
        groups.setdefault((plain(row[0]), plain(row[1])), []).append(name)
    order = sorted(groups, key=lambda row: (row[0] != "works", row[0] == "not made here", -len(groups[row])))
    works = sum(len(names) for row, names in groups.items() if row[0] == "works")
    text = (
        f"# Pipelines, class by class\n\nWritten by `python tests/pipelines.py` with diffusers {diffusers.__version__}: {works} of {len(verdicts)} classes work. "
        "Each is made from tiny random parts, its denoiser is built, each kind of layer is steered with both default recipes, and the picture after "
        "removal is compared bit for bit. `not made here`: no such pipeline could be made offline from small parts, so nothing is known of it.\n\n"
        "*Branches* says how the pipeline guides: `batched`, both branches in one call of its denoiser, or `in turn`. "
        '`branch="cond"` and `"uncond"` move exactly the rows of their own branch; where there is `no guidance`, all rows are conditional.\n\n'
        "| verdict | branches | classes |\n|---|---|---|\n"
        + "".join(f"| {' | '.join(row)} | {', '.join(groups[row])} |\n" for row in order)
    )
    TABLE.write_text(text, encoding="utf-8")


def main() -> None:
    """Try every class that has no row yet, or those that match a pattern, and write the table."""

    def too_slow(*_: Any) -> None:
        message = "too slow"
        raise TimeoutError(message)

    signal.signal(signal.SIGALRM, too_slow)
    wanted = sys.argv[1:]
    for name in classes():
        if not any(re.fullmatch(pattern, name) for pattern in wanted) if wanted else name in written():
            continue
        signal.alarm(300)
        row = tried(name)
        signal.alarm(0)
        print(f"{name}: {' | '.join(row)}", flush=True)
        write({**written(), name: row})
        gc.collect()


if __name__ == "__main__":
    main()
