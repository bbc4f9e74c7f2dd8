"""Arguments that only one denoiser class takes, or takes in a shape of its own. See `inputs.py` for all others."""

from typing import Any

import torch

from eigenbank.builders.inputs import Maker, Scene
from eigenbank.builders.shadows import mark, shadow_of

LONG = torch.int64


def _lumina_rope(scene: Scene) -> Any:
    width = scene.number("hidden_size", default=2304) // scene.number("num_attention_heads", default=32)
    return torch.zeros((64, 64, width // 2), dtype=torch.complex64)


def _positions(scene: Scene) -> Any:
    return [torch.arange(scene.sizes.frames), torch.arange(scene.sizes.side // 2), torch.arange(scene.sizes.side // 2)]


def _omnigen_length(scene: Scene) -> int:
    patch = scene.number("patch_size", default=2)
    return scene.sizes.text + 1 + (scene.sizes.side // patch) ** 2


def _repeated(text: Any, times: int) -> Any:
    return mark(text.expand(times, -1, -1), shadow_of(text).expand(times, -1, -1))


def _cosmos_layouts(scene: Scene) -> tuple[str, ...]:
    settings: Any = scene.model
    if hasattr(settings, "register_to_config"):
        settings.register_to_config(concat_padding_mask=False)
    return ("bcfhw",)


_IDS: Maker = lambda s: torch.zeros((s.tokens + s.sizes.text, 3), dtype=LONG)  # noqa: E731

CASES: dict[str, dict[str, Maker]] = {
    "LuminaNextDiT2DModel": {"image_rotary_emb": _lumina_rope, "cross_attention_kwargs": lambda s: {}},
    "PixArtTransformer2DModel": {
        "added_cond_kwargs": lambda s: {"resolution": torch.zeros((1, 2)), "aspect_ratio": torch.zeros((1, 1))},
    },
    "T5FilmDecoder": {
        "layouts": lambda s: ("bnc",),
        "encodings_and_masks": lambda s: [(s.text(), torch.ones((1, s.sizes.text)))],
        "decoder_input_tokens": Scene.image,
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
    "HunyuanVideoFramepackTransformer3DModel": {"indices_latents": lambda s: torch.arange(s.sizes.frames)[None]},
    "Ideogram4Transformer2DModel": {"layouts": lambda s: ()},
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
            s.text() for _ in range(max(s.config.get("llama_layers") or [31]) + 1)
        ],
        "encoder_hidden_states_t5": lambda s: s.text(),
        "img_ids": lambda s: None,
        "pooled_embeds": lambda s: s.vector(s.number("text_emb_dim", default=2048)),
    },
    "Krea2Transformer2DModel": {
        "layouts": lambda s: ("bnc",),
        "encoder_hidden_states": lambda s: _layered(s, s.number("num_text_layers", "text_num_layers", default=4)),
        "position_ids": _IDS,
    },
    "Cosmos3OmniTransformer": {"layouts": lambda s: ()},
    "UVit2DModel": {"layouts": lambda s: ("bn",)},
    "PriorTransformer": {"layouts": lambda s: ("bc",)},
    "TransformerTemporalModel": {
        "layouts": lambda s: ("bchw",),
        "num_frames": lambda s: 1,
        "encoder_hidden_states": lambda s: None,
    },
    "I2VGenXLUNet": {"layouts": lambda s: ("bcfhw",), "fps": Scene.vector},
    # The pipeline repeats the text for every frame.
    "UNetMotionModel": {
        "layouts": lambda s: ("bcfhw",),
        "encoder_hidden_states": lambda s: _repeated(s.text(), s.sizes.frames),
    },
    "HunyuanVideo15Transformer3DModel": {
        "layouts": lambda s: ("bcfhw",),
        "image_embeds": lambda s: s.text(5, s.number("image_embed_dim", default=1152)),
        "encoder_hidden_states_2": Scene.text,
        "encoder_attention_mask_2": lambda s: torch.ones((1, s.sizes.text), dtype=torch.bool),
    },
    # Its padding mask would be resized by torchvision, which need not be installed; the mask is one channel more, no token.
    "CosmosTransformer3DModel": {"layouts": _cosmos_layouts},
    "MiniMaxMusic3Transformer1DModel": {
        "layouts": lambda s: ("bnc", "bcn"),
        "encoder_hidden_states": lambda s: s.text(s.tokens),
    },
    "StableAudioDiTModel": {"layouts": lambda s: ("bcn",)},
}
"""Class → argument → its maker. `layouts` lists the layouts of the image argument to try instead of all."""


def _layered(scene: Scene, layers: int) -> Any:
    text = scene.text()
    return mark(text[:, :, None].expand(-1, -1, layers, -1), shadow_of(text)[:, :, None].expand(-1, -1, layers, -1))
