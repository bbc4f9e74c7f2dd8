"""Arguments that only one denoiser class takes, or takes in a shape of its own. See `inputs.py` for all others."""

from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name

from eigenbank.builders.discovery.inputs import Maker, Trial
from eigenbank.builders.discovery.token_tags import tag, tags_of

LONG = torch.int64


def _lumina_rope(trial: Trial) -> Any:
    width = trial.number("hidden_size", default=2304) // trial.number("num_attention_heads", default=32)
    return torch.zeros((64, 64, width // 2), dtype=torch.complex64)


def _positions(trial: Trial) -> Any:
    return [torch.arange(trial.sizes.frames), torch.arange(trial.sizes.side // 2), torch.arange(trial.sizes.side // 2)]


def _omnigen_length(trial: Trial) -> int:
    patch = trial.number("patch_size", default=2)
    return trial.sizes.text + 1 + (trial.sizes.side // patch) ** 2


def _repeated(text: Any, times: int) -> Any:
    return tag(text.expand(times, -1, -1), tags_of(text).expand(times, -1, -1))


def _cosmos_layouts(trial: Trial) -> tuple[str, ...]:
    settings: Any = trial.model
    if hasattr(settings, "register_to_config"):
        settings.register_to_config(concat_padding_mask=False)
    return ("bcfhw",)


def _cogvideox_layouts(trial: Trial) -> tuple[str, ...]:
    # Positions that were learned are of one size only; they belong to no token of their own.
    embedder: Any = getattr(trial.model, "patch_embed", None)
    if embedder is not None:
        embedder.use_positional_embeddings = embedder.use_learned_positional_embeddings = False
    # Its forward runs with frames and channels exchanged too, and then counts tokens wrongly.
    return ("bfchw",)


def _layered(trial: Trial, layers: int, width: int) -> Any:
    text = trial.text(width=width)
    return tag(text[:, :, None].expand(-1, -1, layers, -1), tags_of(text)[:, :, None].expand(-1, -1, layers, -1))


def _up_to(count: int, _trial: Trial) -> Any:
    return torch.arange(count)


def _bundles(trial: Trial, count: int) -> Any:
    text = trial.text()
    return tag(text[:, None].expand(-1, count, -1, -1), tags_of(text)[:, None].expand(-1, count, -1, -1))


def _padded(tokens: Any, before: int = 0, after: int = 0) -> Any:
    """`(batch, n, width)` tokens in a longer sequence of none."""
    pad = (0, 0, before, after)
    return tag(F.pad(tokens, pad), F.pad(tags_of(tokens), pad))


def _cosmos_grid(trial: Trial) -> tuple[int, int, int]:
    side = trial.sizes.side // trial.number("latent_patch_size", default=2)
    return trial.sizes.frames, side, side


def _cosmos_length(trial: Trial) -> int:
    return trial.sizes.text + prod(_cosmos_grid(trial))


def _joy_patches(trial: Trial) -> Any:
    """`(batch, n, channels, 1, patch, patch)`, a token a patch."""
    tokens = trial.image("bnc", trial.number("in_channels", default=16))
    size = (*tokens.shape, *(trial.config.get("patch_size") or (1, 2, 2)))
    return tag(torch.zeros(size), tags_of(tokens)[..., None, None, None].expand(size))


def _refiner_rope(trial: Trial) -> Any:
    model: Any = trial.model
    side = trial.sizes.side
    return model.build_rotary_emb_for_absolute_positions(1, [0], side, side, torch.device("cpu"), 24.0)


def _wan_cache(trial: Trial) -> Any:
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    return WanAnimate2KVCache(trial.number("num_layers", default=40))


_HISTORY = {"clean": 2, "history_2x": 2, "history_4x": 16}
"""Frames of each kind of history, as the pipeline gives them."""
_IDS: Maker = lambda s: torch.zeros((s.tokens + s.sizes.text, 3), dtype=LONG)  # noqa: E731

CASES: dict[str, dict[str, Maker]] = {
    "LuminaNextDiT2DModel": {"image_rotary_emb": _lumina_rope, "cross_attention_kwargs": lambda s: {}},
    "PixArtTransformer2DModel": {
        "added_cond_kwargs": lambda s: {"resolution": torch.zeros((1, 2)), "aspect_ratio": torch.zeros((1, 1))},
    },
    "T5FilmDecoder": {
        "layouts": lambda s: ("bnc",),
        "encodings_and_masks": lambda s: [(s.text(), torch.ones((1, s.sizes.text)))],
        "decoder_input_tokens": Trial.image,
    },
    "HunyuanDiT2DModel": {
        "encoder_hidden_states": lambda s: s.text(
            s.number("text_len", default=77), s.number("cross_attention_dim", default=1024)
        ),
        "text_embedding_mask": lambda s: torch.ones((1, s.number("text_len", default=77))),
        "encoder_hidden_states_t5": lambda s: s.text(
            s.number("text_len_t5", default=256), s.number("cross_attention_dim_t5", default=2048)
        ),
        "text_embedding_mask_t5": lambda s: torch.ones((1, s.number("text_len_t5", default=256))),
        "image_meta_size": lambda s: torch.zeros((1, 6)),
        "style": lambda s: torch.zeros((1,), dtype=LONG),
    },
    "Kandinsky5Transformer3DModel": {
        "layouts": lambda s: ("bfhwc",),
        "visual_rope_pos": _positions,
        "text_rope_pos": lambda s: torch.arange(s.sizes.text),
    },
    "AnyFlowTransformer3DModel": {
        "layouts": lambda s: ("bfchw", "bcfhw"),
        **dict.fromkeys(("timestep", "r_timestep"), lambda s: torch.ones((1, s.sizes.frames))),
    },
    "WanAnimateTransformer3DModel": {
        "pose_hidden_states": lambda s: s.image("bcfhw", s.number("latent_channels", default=16), f=s.sizes.frames - 1),
        "face_pixel_values": lambda s: torch.zeros((1, 3, 9, 512, 512)),
        "encoder_hidden_states_image": lambda s: s.text(257, s.number("image_dim", default=1280)),
    },
    "WanVACETransformer3DModel": {
        "control_hidden_states": lambda s: s.image("bcfhw", s.number("vace_in_channels", default=96)),
        "encoder_hidden_states_image": lambda s: None,
    },
    "HunyuanVideoFramepackTransformer3DModel": {
        "layouts": lambda s: ("bcfhw",),
        "indices_latents": lambda s: torch.arange(s.sizes.frames),
        "image_embeds": lambda s: s.text(5, s.number("image_proj_dim", default=1152)),
        **{f"latents_{name}": partial(Trial.image, f=frames) for name, frames in _HISTORY.items()},
        **{f"indices_latents_{name}": partial(_up_to, frames) for name, frames in _HISTORY.items()},
    },
    "Ideogram4Transformer2DModel": {
        "layouts": lambda s: ("bnc",),
        "hidden_states": lambda s: _padded(s.image(), before=s.sizes.text),
        "encoder_hidden_states": lambda s: _padded(s.text(), after=s.tokens),
        "position_ids": lambda s: _IDS(s)[None],
        "segment_ids": lambda s: torch.zeros((1, s.tokens + s.sizes.text), dtype=LONG),
        "indicator": lambda s: torch.tensor([[3] * s.sizes.text + [2] * s.tokens]),
    },
    "LTX2VideoTransformer3DModel": {
        "layouts": lambda s: ("bnc",),
        "audio_hidden_states": lambda s: torch.zeros((1, 5, s.number("audio_in_channels", default=128))),
        "audio_num_frames": lambda s: 5,
        "audio_encoder_hidden_states": lambda s: s.text(),
        "fps": lambda s: 24.0,
    },
    "GlmImageTransformer2DModel": {
        "prior_token_id": lambda s: torch.zeros((1, (s.sizes.side // 2) ** 2), dtype=LONG),
        "prior_token_drop": lambda s: torch.zeros((1, (s.sizes.side // 2) ** 2), dtype=torch.bool),
    },
    "OmniGenTransformer2DModel": {
        "layouts": lambda s: ("bchw",),
        "input_ids": lambda s: s.text_ids(s.sizes.text),
        "input_img_latents": lambda s: [],
        "input_image_sizes": lambda s: {},
        "attention_mask": lambda s: torch.ones((1, _omnigen_length(s), _omnigen_length(s))),
        "position_ids": lambda s: torch.arange(_omnigen_length(s))[None],
    },
    "HiDreamImageTransformer2DModel": {
        "layouts": lambda s: ("bchw",),
        "encoder_hidden_states_llama3": lambda s: [
            s.text(width=(s.config.get("caption_channels") or [4096])[-1])
            for _ in range(max(s.config.get("llama_layers") or [31]) + 1)
        ],
        "encoder_hidden_states_t5": lambda s: s.text(),
        "img_ids": lambda s: None,
        "pooled_embeds": lambda s: s.vector(s.number("text_emb_dim", default=2048)),
    },
    "Krea2Transformer2DModel": {
        "layouts": lambda s: ("bnc",),
        "encoder_hidden_states": lambda s: _layered(
            s, s.number("num_text_layers", default=12), s.number("text_hidden_dim", default=2560)
        ),
        "position_ids": _IDS,
    },
    # Each position of an image in the text stands for four tokens.
    "QwenImage21Transformer2DModel": {
        "layouts": lambda s: ("bnc",),
        "img_shapes": lambda s: [[(1, s.sizes.side, s.sizes.side)]],
        "img_mask": lambda s: torch.arange(s.sizes.text + s.tokens // 4)[None] >= s.sizes.text,
    },
    "Cosmos3OmniTransformer": {
        "layouts": lambda s: ("bcfhw",),
        "input_ids": lambda s: tag(s.text_ids(s.sizes.text)[0], tags_of(s.text_ids(s.sizes.text))[0]),
        "text_indexes": lambda s: torch.arange(s.sizes.text),
        "position_ids": lambda s: torch.arange(_cosmos_length(s)),
        "und_len": lambda s: s.sizes.text,
        "sequence_length": _cosmos_length,
        "vision_tokens": lambda s: [s.image(channels=s.number("latent_channel", default=48))],
        "vision_token_shapes": lambda s: [_cosmos_grid(s)],
        **dict.fromkeys(
            ("vision_sequence_indexes", "vision_mse_loss_indexes"),
            lambda s: torch.arange(s.sizes.text, _cosmos_length(s)),
        ),
        "vision_timesteps": lambda s: torch.ones((_cosmos_length(s) - s.sizes.text,)),
        "vision_noisy_frame_indexes": lambda s: [torch.arange(s.sizes.frames)],
    },
    "BriaFiboTransformer2DModel": {
        "layouts": lambda s: ("bnc",),
        "text_encoder_layers": lambda s: [
            s.text(width=s.number("text_encoder_dim", default=2048))
            for _ in range(s.number("num_layers", default=19) + s.number("num_single_layers", default=38))
        ],
    },
    "BriaFibo2Transformer2DModel": {
        "layouts": lambda s: ("bchw",),
        "encoder_hidden_states": lambda s: _bundles(s, 1 + len(s.config.get("injection_layer_ids") or ())),
    },
    "MiniMaxH3Transformer3DModel": {
        "layouts": lambda s: ("bnc",),
        "hidden_states": lambda s: s.image(channels=4 * s.number("in_channels", default=24)),
        "audio_hidden_states": lambda s: torch.zeros((1, 5, s.number("audio_in_channels", default=32))),
        "timestep_indices": lambda s: torch.zeros((s.tokens + s.sizes.text + 5,), dtype=LONG),
        "token_tags": lambda s: torch.zeros((s.tokens + s.sizes.text + 5,), dtype=LONG),
        "position_ids": lambda s: torch.zeros((s.tokens + s.sizes.text + 5, 3)),
        "text_indices": lambda s: torch.arange(s.sizes.text),
        "video_indices": lambda s: torch.arange(s.sizes.text, s.sizes.text + s.tokens),
        "audio_indices": lambda s: torch.arange(s.sizes.text + s.tokens, s.sizes.text + s.tokens + 5),
    },
    "JoyImageEditPlusTransformer3DModel": {
        "layouts": lambda s: ("bnc",),
        "hidden_states": _joy_patches,
        "shape_list": lambda s: [[(1, s.sizes.side, s.sizes.side)]],
        "encoder_hidden_states_mask": lambda s: None,
    },
    "StableAudio3DiTModel": {
        "layouts": lambda s: ("bcn",),
        "hidden_states": lambda s: s.image(channels=s.number("io_channels", default=256)),
        "encoder_hidden_states": lambda s: s.text(width=s.number("cond_token_dim", default=768)),
        "global_hidden_states": lambda s: s.vector(s.number("global_cond_dim", default=768)),
    },
    # The first pass, over the reference: the generation's runs compiled only, over the same projections.
    "WanAnimate2Transformer3DModel": {
        "layouts": lambda s: ("cfhw",),
        "hidden_states": lambda s: [s.image(channels=16)],
        "condition_latents": lambda s: [s.image(channels=s.number("in_dim", default=36) - 16)],
        "encoder_hidden_states": lambda s: [tag(s.text()[0], tags_of(s.text())[0])],
        "encoder_hidden_states_image": lambda s: s.text(257, 1280),
        "kv_cache": _wan_cache,
        "kv_cache_mode": lambda s: "extract",
        "seq_len": lambda s: s.sizes.frames * (s.sizes.side // 2) ** 2,
        "offset_grid_sizes": lambda s: torch.tensor([[s.sizes.frames, s.sizes.side // 2, s.sizes.side // 2]]),
    },
    "AnyFlowFARTransformer3DModel": {
        "layouts": lambda s: ("bfchw",),
        "chunk_partition": lambda s: [1] * s.sizes.frames,
        **dict.fromkeys(("timestep", "r_timestep"), lambda s: torch.ones((1, s.sizes.frames))),
    },
    "Kandinsky6SRTransformer3DModel": {
        "layouts": lambda s: ("bfhwc",),
        "hidden_states": lambda s: s.image(channels=s.number("in_visual_dim", default=64), h=16, w=16),
    },
    "UVit2DModel": {"layouts": lambda s: ("bn",)},
    "CogVideoXTransformer3DModel": {
        "layouts": _cogvideox_layouts,
        "ofs": lambda s: s.vector() if s.config.get("ofs_embed_dim") else None,
    },
    # What it sees of a face is no token of the text or the image.
    "ConsisIDTransformer3DModel": {
        "layouts": _cogvideox_layouts,
        "id_cond": lambda s: s.vector(s.number("LFE_id_dim", default=1280)),
        "id_vit_hidden": lambda s: (
            [torch.zeros((1, 5, s.number("LFE_vit_dim", default=1024)))] * s.number("LFE_num_scale", default=5)
        ),
    },
    "UNetControlNetXSModel": {"controlnet_cond": lambda s: torch.zeros((1, 3, 8 * s.sizes.side, 8 * s.sizes.side))},
    "PriorTransformer": {"layouts": lambda s: ("bc",)},
    "TransformerTemporalModel": {
        "layouts": lambda s: ("bchw",),
        "num_frames": lambda s: 1,
        "encoder_hidden_states": lambda s: None,
    },
    "I2VGenXLUNet": {"layouts": lambda s: ("bcfhw",), "fps": Trial.vector},
    # The pipeline repeats the text for every frame.
    "UNetMotionModel": {
        "layouts": lambda s: ("bcfhw",),
        "encoder_hidden_states": lambda s: _repeated(s.text(), s.sizes.frames),
    },
    "HunyuanVideo15Transformer3DModel": {
        "layouts": lambda s: ("bcfhw",),
        "image_embeds": lambda s: s.text(5, s.number("image_embed_dim", default=1152)),
        "encoder_hidden_states_2": Trial.text,
        "encoder_attention_mask_2": lambda s: torch.ones((1, s.sizes.text), dtype=torch.bool),
    },
    # Its padding mask would be resized by torchvision, which need not be installed; the mask is one channel more, no token.
    "CosmosTransformer3DModel": {"layouts": _cosmos_layouts},
    # What it is conditioned on is no token of its own, but more channels.
    "MiniMaxMusic3Transformer1DModel": {
        "layouts": lambda s: ("bcn",),
        "encoder_hidden_states": lambda s: torch.zeros((1, s.tokens, s.number("condition_dim", default=2048))),
    },
    "StableAudioDiTModel": {"layouts": lambda s: ("bcn",)},
    "SanaWMTransformer3DModel": {
        "layouts": lambda s: ("bcfhw",),
        "timestep": lambda s: torch.ones((1, 1, s.sizes.frames)),
    },
    "SanaWMLTX2RefinerTransformer3DModel": {
        "layouts": lambda s: ("bnc",),
        "timestep": lambda s: torch.ones((1, s.tokens)),
        "video_rotary_emb": _refiner_rope,
    },
    "StableCascadeUNet": {
        "clip_text_pooled": lambda s: s.text(1, s.number("clip_text_pooled_in_channels", default=1280)),
    },
}
"""Class → argument → its maker. `layouts` lists the layouts of the image argument to try instead of all."""
