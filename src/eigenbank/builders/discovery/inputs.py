"""Inputs for a trace, made from the names of the arguments of a denoiser's forward, and from its config.

The widths hardly matter, because linear layers and convolutions take any in a trace; what matters is which argument
holds image tokens, which holds text, and that sequences fit together. The layout of the image (a picture, a video, a
sequence, a list) is declared nowhere, so the candidates are tried in turn.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
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


def attempts(
    model: nn.Module, config: Mapping[str, Any], cases: Mapping[str, Mapping[str, Maker]]
) -> Iterator[Attempt]:
    """What to try `model.forward` with, the likeliest first. `cases`: class → argument → how to make it.

    An argument's maker `layouts` lists the layouts to try instead of all; a maker that gives None leaves the argument out.
    """
    case = cases.get(type(model).__name__, {})
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


def candidates(
    model: nn.Module, config: Mapping[str, Any], cases: Mapping[str, Mapping[str, Maker]]
) -> Iterator[dict[str, Any]]:
    """The keyword arguments of all `attempts`."""
    return (attempt.arguments() for attempt in attempts(model, config, cases))


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
    "cap_feats": lambda s: [tag(s.text()[0], tags_of(s.text())[0])],
}  # fmt: skip
"""How an argument of that name is made, whichever class it belongs to."""

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
