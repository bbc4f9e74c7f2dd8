"""Inputs for a trace, made from the names of the arguments of a denoiser's forward, and from its config.

The widths hardly matter, because linear layers and convolutions take any in a trace; what matters is which argument
holds image tokens, which holds text, and that sequences fit together. The layout of the image (a picture, a video, a
sequence, a list) is declared nowhere, so the candidates are tried in turn.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from eigenbank.builders.discovery.token_tags import IMAGE, TEXT, tag, tags_of, token_code

LAYOUTS = ("bchw", "bcfhw", "bfchw", "bnc", "bcn", "list", "bn", "bc")
"""Layouts of the image argument: batch, channels, frames, height, width; n tokens in a row; a list of c, f, h, w."""

_TEXT_WIDTHS = (
    "joint_attention_dim", "cross_attention_dim", "caption_channels", "caption_projection_dim", "text_embed_dim", "text_dim",
    "cap_feat_dim", "text_hidden_size", "text_in_dim", "context_in_dim", "encoder_hid_dim", "embedding_dim",
)  # fmt: skip


@dataclass(frozen=True)
class TrialSizes:
    """Sizes in a trial: small, and different wherever they must not be taken for one another."""

    batch: int = 1
    frames: int = 4
    side: int = 8
    text: int = 6


@dataclass(frozen=True)
class Trial:
    """What the arguments of one trial are made from: the denoiser, and the layout and sizes of its tokens."""

    model: nn.Module
    config: Mapping[str, Any]
    layout: str
    sizes: TrialSizes

    @property
    def tokens(self) -> int:
        """Image tokens of a layout without axes."""
        return self.sizes.side**2

    def image(self, axes: str | None = None, channels: int | None = None, **extents: int) -> Any:
        """Make image tokens in the trial's layout, or in `axes`."""
        size, axes = self.sizes, axes or self.layout
        channels = channels or self.number("in_channels", "in_dim", "input_size", default=4)
        extent = {"b": size.batch, "c": channels, "f": size.frames, "h": size.side, "w": size.side, "n": self.tokens}
        extent.update(extents)
        if axes == "list":
            return [self.image("cfhw", channels, f=1)]
        if axes == "bn":
            axes = "bhw"
        shape = [extent[axis] for axis in axes]
        dtype = torch.int64 if axes == "bhw" else torch.float32
        return tag(torch.zeros(shape, dtype=dtype), self._codes(axes, extent))

    def _codes(self, axes: str, extent: Mapping[str, int]) -> Tensor:
        def along(axis: str) -> Tensor:
            at = axes.find(axis)
            shape = [extent[axis] if d == at else 1 for d in range(len(axes))]
            return torch.arange(extent[axis] if at >= 0 else 1).reshape(shape if at >= 0 else [1] * len(axes))

        position = along("n") + along("h") * extent["w"] + along("w")
        return token_code(IMAGE, along("f"), position).expand([extent[axis] for axis in axes])

    def text(self, length: int | None = None, width: int | None = None) -> Tensor:
        """Make text tokens `(batch, length, width)`."""
        length, width = length or self.sizes.text, width or self.text_width
        position = torch.arange(length)[None, :, None] + 2048
        codes = token_code(TEXT, torch.zeros(1, dtype=torch.int64), position)
        return tag(torch.zeros((self.sizes.batch, length, width)), codes.expand(self.sizes.batch, length, width))

    def text_ids(self, length: int) -> Tensor:
        """Text as token ids `(batch, length)`."""
        codes = token_code(TEXT, torch.zeros(1, dtype=torch.int64), torch.arange(length)[None] + 2048)
        return tag(torch.zeros((self.sizes.batch, length), dtype=torch.int64), codes.expand(self.sizes.batch, length))

    @property
    def text_width(self) -> int:
        """The width of a text token, where the config says it."""
        for key in _TEXT_WIDTHS:
            found = self.config.get(key)
            if isinstance(found, (list, tuple)) and found and isinstance(found[0], int):
                return found[0]
            if isinstance(found, int):
                return found
        return 64

    def vector(self, width: int | None = None) -> Tensor:
        """Make one vector or number per sample: a timestep, a pooled embedding. It holds no token."""
        return torch.zeros((self.sizes.batch, width)) if width else torch.ones((self.sizes.batch,))

    def number(self, *names: str, default: int) -> int:
        """Return the first of the config's entries that is a whole number."""
        return next((self.config[name] for name in names if isinstance(self.config.get(name), int)), default)

    @property
    def rope_axes(self) -> int:
        """How many axes a position has."""
        found = next(
            (self.config[k] for k in ("axes_dims_rope", "axes_dim", "rope_axes_dim") if self.config.get(k)), None
        )
        return len(found) if isinstance(found, (list, tuple)) else 3


Maker = Callable[[Trial], Any]


def _both(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor changed, and its tags in the same way."""
    return tag(change(tensor), change(tags_of(tensor)))


def _mask(trial: Trial) -> Tensor:
    return torch.ones((trial.sizes.batch, trial.sizes.text), dtype=torch.bool)


def _pooled(trial: Trial) -> Tensor:
    return trial.vector(trial.number("pooled_projection_dim", "text_embed_2_dim", "in_text_dim2", default=768))


def _added(trial: Trial) -> dict[str, Any] | None:
    if "addition_embed_type" in trial.config:
        width = trial.number("encoder_hid_dim", default=1280)
        return {
            "text_embeds": trial.vector(1280),
            "time_ids": torch.zeros((1, 6)),
            "image_embeds": trial.vector(width),
            "hint": trial.image("bchw", 3),
        }
    return {"resolution": torch.zeros((1, 2)), "aspect_ratio": torch.zeros((1, 1))}


def _class(trial: Trial) -> Tensor | None:
    """A class's number, or what some U-Nets take for one: an embedding of a picture, a level of noise."""
    kind, widths = trial.config.get("class_embed_type"), trial.config.get("block_out_channels")
    if kind == "identity" and widths:
        return trial.vector(4 * widths[0])
    if kind:
        return trial.vector(trial.number("projection_class_embeddings_input_dim", default=0) * ("projection" in kind))
    if trial.config.get("num_class_embeds") or trial.config.get("norm_type") == "ada_norm_zero":
        return torch.zeros((1,), dtype=torch.int64)
    return None


_MAKERS: dict[str, Maker] = {
    **dict.fromkeys(("hidden_states", "sample", "x", "input_ids", "context_latents", "image_latents"), Trial.image),
    **dict.fromkeys(
        ("encoder_hidden_states", "encoder_hidden_states_2", "encoder_hidden_states_t5", "text_bth", "clip_text",
         "encoder_hidden_states_image", "image_embeds", "audio_encoder_hidden_states"),
        Trial.text,
    ),
    **dict.fromkeys(
        ("encoder_attention_mask", "encoder_attention_mask_2", "encoder_hidden_states_mask", "encoder_mask",
         "text_embedding_mask", "text_embedding_mask_t5", "audio_encoder_attention_mask"),
        _mask,
    ),
    **dict.fromkeys(
        ("timestep", "timesteps", "t", "timestep_ratio", "timestep_r", "r_timestep", "guidance", "decoder_noise_time", "audio_timestep"),
        Trial.vector,
    ),
    **dict.fromkeys(("pooled_projections", "pooled_embeds"), _pooled),
    "pooled_text_emb": lambda s: s.vector(s.number("cond_embed_dim", default=768)),
    "micro_conds": lambda s: torch.zeros((1, 5)),
    "image_embeddings": lambda s: s.vector(1024),
    "proj_embedding": lambda s: s.vector(s.number("embedding_dim", default=768)),
    "global_hidden_states": lambda s: torch.zeros((1, 1, s.number("global_states_input_dim", default=1536))),
    "clip_text_pooled": lambda s: torch.zeros((1, 1, 1280)),
    "class_labels": _class,
    "img_ids": lambda s: torch.zeros((s.tokens, s.rope_axes)),
    "txt_ids": lambda s: torch.zeros((s.sizes.text, s.rope_axes)),
    "position_ids": lambda s: torch.zeros((s.tokens + s.sizes.text, 3)),
    "added_cond_kwargs": _added,
    "added_time_ids": lambda s: torch.zeros((1, 3)),
    "img_shapes": lambda s: [[(1, s.sizes.side, s.sizes.side)]],
    "num_frames": lambda s: 1 if s.layout == "bnc" else s.sizes.frames,
    "height": lambda s: s.sizes.side,
    "width": lambda s: s.sizes.side,
    **dict.fromkeys(("original_size", "target_size", "crop_coords"), lambda s: torch.zeros((1, 2))),
    "cap_feats": lambda s: [_both(s.text(), lambda t: t[0])],
}  # fmt: skip
"""How an argument of that name is made, whichever class it belongs to."""


def _lumina_rope(trial: Trial) -> Any:
    width = trial.number("hidden_size", default=2304) // trial.number("num_attention_heads", default=32)
    return torch.zeros((64, 64, width // 2), dtype=torch.complex64)


def _positions(trial: Trial) -> Any:
    return [torch.arange(trial.sizes.frames), torch.arange(trial.sizes.side // 2), torch.arange(trial.sizes.side // 2)]


def _omnigen_length(trial: Trial) -> int:
    patch = trial.number("patch_size", default=2)
    return trial.sizes.text + 1 + (trial.sizes.side // patch) ** 2


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


def _up_to(count: int, _trial: Trial) -> Any:
    return torch.arange(count)


def _cosmos_grid(trial: Trial) -> tuple[int, int, int]:
    side = trial.sizes.side // trial.number("latent_patch_size", default=2)
    return trial.sizes.frames, side, side


def _cosmos_length(trial: Trial) -> int:
    return trial.sizes.text + prod(_cosmos_grid(trial))


def _joy_patches(trial: Trial) -> Any:
    """`(batch, n, channels, 1, patch, patch)`, a token a patch."""
    tokens = trial.image("bnc", trial.number("in_channels", default=16))
    size = (*tokens.shape, *(trial.config.get("patch_size") or (1, 2, 2)))
    return _both(tokens, lambda each: each[..., None, None, None].expand(size))


def _refiner_rope(trial: Trial) -> Any:
    model: Any = trial.model
    side = trial.sizes.side
    return model.build_rotary_emb_for_absolute_positions(1, [0], side, side, torch.device("cpu"), 24.0)


def _wan_cache(trial: Trial) -> Any:
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    return WanAnimate2KVCache(trial.number("num_layers", default=40))


_HISTORY = {"clean": 2, "history_2x": 2, "history_4x": 16}
"""Frames of each kind of history, as the pipeline gives them."""
_IDS: Maker = lambda s: torch.zeros((s.tokens + s.sizes.text, 3), dtype=torch.int64)  # noqa: E731

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
        "style": lambda s: torch.zeros((1,), dtype=torch.int64),
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
        "hidden_states": lambda s: _both(s.image(), lambda t: F.pad(t, (0, 0, s.sizes.text, 0))),
        "encoder_hidden_states": lambda s: _both(s.text(), lambda t: F.pad(t, (0, 0, 0, s.tokens))),
        "position_ids": lambda s: _IDS(s)[None],
        "segment_ids": lambda s: torch.zeros((1, s.tokens + s.sizes.text), dtype=torch.int64),
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
        "prior_token_id": lambda s: torch.zeros((1, (s.sizes.side // 2) ** 2), dtype=torch.int64),
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
        "encoder_hidden_states": lambda s: _both(
            s.text(width=s.number("text_hidden_dim", default=2560)),
            lambda t: t[:, :, None].expand(-1, -1, s.number("num_text_layers", default=12), -1),
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
        "input_ids": lambda s: _both(s.text_ids(s.sizes.text), lambda t: t[0]),
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
        "encoder_hidden_states": lambda s: _both(
            s.text(), lambda t: t[:, None].expand(-1, 1 + len(s.config.get("injection_layer_ids") or ()), -1, -1)
        ),
    },
    "MiniMaxH3Transformer3DModel": {
        "layouts": lambda s: ("bnc",),
        "hidden_states": lambda s: s.image(channels=4 * s.number("in_channels", default=24)),
        "audio_hidden_states": lambda s: torch.zeros((1, 5, s.number("audio_in_channels", default=32))),
        "timestep_indices": lambda s: torch.zeros((s.tokens + s.sizes.text + 5,), dtype=torch.int64),
        "token_tags": lambda s: torch.zeros((s.tokens + s.sizes.text + 5,), dtype=torch.int64),
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
        "encoder_hidden_states": lambda s: [_both(s.text(), lambda t: t[0])],
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
        "encoder_hidden_states": lambda s: _both(s.text(), lambda t: t.expand(s.sizes.frames, -1, -1)),
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
"""Class → arguments that only it takes, or takes in a shape of its own. `layouts` lists the layouts of the image to try instead
of all; a maker that gives None leaves the argument out.
"""


@dataclass(frozen=True)
class Attempt:
    """The arguments of one trial, and how to make the same of other sizes. `optional`: those known that have a default too."""

    trial: Trial
    case: Mapping[str, Maker]
    optional: bool

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments for the denoiser's forward."""
        made: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.trial.model.forward).parameters.items():
            required = parameter.default is parameter.empty
            if name == "return_dict" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            maker = self.case.get(name) or _MAKERS.get(name)
            if maker is not None and (required or self.optional or name in _NEEDED or name in self.case):
                value = maker(self.trial)
                if value is not None or required:
                    made[name] = value
            elif required:
                made[name] = self.trial.vector()
        return made

    def others(self) -> "list[Attempt]":
        """The same with a larger image and a longer text, at once and one at a time."""
        sizes = self.trial.sizes
        more = ({"side": sizes.side * 2, "text": sizes.text + 3}, {"side": sizes.side * 2}, {"text": sizes.text + 3})
        return [replace(self, trial=replace(self.trial, sizes=replace(sizes, **each))) for each in more]


def attempts(model: nn.Module) -> Iterator[Attempt]:
    """What to try `model.forward` with, the likeliest first."""
    config: Mapping[str, Any] = dict(getattr(model, "config", {}))
    case = CASES.get(type(model).__name__, {})
    names = inspect.signature(model.forward).parameters
    said = next((config[key] for key in ("max_text_seq_length", "text_len") if isinstance(config.get(key), int)), None)
    texts = (6, said) if said and said <= 1024 else (6,)
    layouts = (
        case["layouts"](Trial(model, config, "", TrialSizes()))
        if "layouts" in case
        else _likely(type(model).__name__, names, model)
    )
    # Seven levels halve a picture six times.
    levels = config.get("block_out_channels")
    sides = (8, 32, 64) if isinstance(levels, Sequence) and len(levels) > 6 else (8, 32)
    for layout in layouts:
        for text in texts:
            for side in (4, 8) if layout in ("bnc", "bcn") else sides:
                trial = Trial(model, config, layout, TrialSizes(side=side, text=text))
                for optional in (True, False):
                    yield Attempt(trial, case, optional)


_NEEDED = frozenset(
    ("encoder_hidden_states", "timestep", "img_ids", "txt_ids", "pooled_projections", "img_shapes", "class_labels")
)


def _likely(kind: str, names: Mapping[str, Any], model: nn.Module) -> tuple[str, ...]:
    """Return the layouts in the order to try them, from the class's name and what its first convolution takes."""
    first = next((type(m).__name__ for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), "")
    order = list(LAYOUTS)
    if {"img_ids", "img_shapes", "num_frames", "position_ids"} & set(names):
        order = ["bnc", *order]
    elif first == "Conv3d" or any(word in kind for word in ("3D", "Motion", "XL")):
        order = ["bcfhw", *order]
    elif "1D" in kind or "Audio" in kind:
        order = ["bcn", "bnc", *order]
    return tuple(dict.fromkeys(order))
