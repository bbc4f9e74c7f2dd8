"""Every denoiser class of diffusers that can be instantiated: what discovery says of it, against a second witness.

The witness knows nothing of token tags: it counts tokens. Text has 6 tokens where the image has a power of two, so an
attention with as many queries as keys, and not 6 of them, is self-attention over image tokens or both together.
`python tests/survey.py` writes the table in docs/layers.md.
"""

import gc
import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CONFIGS: dict[str, dict[str, Any]] = {
    "HunyuanDiT2DModel": {"in_channels": 4, "patch_size": 2, "num_layers": 4, "sample_size": 8, "attention_head_dim": 8, "num_attention_heads": 2, "cross_attention_dim": 16, "hidden_size": 16, "cross_attention_dim_t5": 24, "pooled_projection_dim": 8, "text_len": 6, "text_len_t5": 6, "activation_fn": "gelu-approximate"},
    "LatteTransformer3DModel": {"sample_size": 8, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 3, "caption_channels": 8, "in_channels": 4, "cross_attention_dim": 24, "out_channels": 8, "attention_bias": True, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single", "norm_elementwise_affine": False},
    "LuminaNextDiT2DModel": {"sample_size": 16, "hidden_size": 24, "num_layers": 2, "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 16, "cross_attention_dim": 32},
    "EasyAnimateTransformer3DModel": {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 2, "text_embed_dim": 16, "num_layers": 2, "sample_width": 16, "sample_height": 16, "patch_size": 2, "mmdit_layers": 2},
    "HiDreamImageTransformer2DModel": {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4, "caption_channels": [32, 16], "text_emb_dim": 64, "num_routed_experts": 4, "num_activated_experts": 2, "axes_dims_rope": (4, 2, 2), "max_resolution": (32, 32), "llama_layers": (0, 1), "force_inference_output": True},
    "OmniGenTransformer2DModel": {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 32, "num_layers": 2, "in_channels": 4, "time_step_dim": 4, "rope_scaling": {"long_factor": [1, 2], "short_factor": [1, 2]}},
    "NucleusMoEImageTransformer2DModel": {"num_layers": 4},
    "DreamLiteTransformer2DModel": {"in_channels": 32, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 48},
    "TransformerTemporalModel": {"in_channels": 32, "num_attention_heads": 2, "attention_head_dim": 16},
    "Transformer2DModel": {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 32, "cross_attention_dim": 48, "norm_type": "layer_norm"},
    # Every fifth layer has a face adapter: four have none.
    "WanAnimateTransformer3DModel": {"num_layers": 5},
    "WanVACETransformer3DModel": {"num_layers": 4, "vace_layers": [0, 2]},
    # Its pipeline gives it images and a history, which its defaults have no projections for.
    "HunyuanVideoFramepackTransformer3DModel": {"has_image_proj": True, "has_clean_x_embedder": True},
    "BriaFibo2Transformer2DModel": {"injection_layer_ids": (1, 3), "min_num_gist_tokens": 4, "max_num_gist_tokens": 8, "gist_step": 2},
    "StableCascadeUNet": {
        "block_out_channels": (64, 64), "num_attention_heads": (4, 4), "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1), "down_blocks_repeat_mappers": (1, 1), "up_blocks_repeat_mappers": (1, 1),
        "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
        "switch_level": (False,), "dropout": (0.1, 0.1), "kernel_size": 3,
    },
}  # fmt: skip
"""Configs for classes whose defaults make no model, or one too slow to look at."""
DEPTH = re.compile(r"(?:(?:num|n)_(?!text_).*(?:layers|blocks)|depth)")
MOST_LAYERS = 4
"""A stack of equal layers is looked at this deep: what holds of four blocks of a kind holds of forty."""
NOT_FOLLOWED = {
    "MiniMaxMusic3RVQDepthDecoder": "no denoiser: it reads audio codes one after another",
    "RFD4ProteinaTransformer": "its tokens are amino acids, of which no image is made",
    "SanaWMTransformer3DModel": "its linear attention runs as a recurrence in chunks",
}
"""Classes whose forward discovery cannot follow, and why. Their layers are undecided, or none are found."""


@dataclass(frozen=True)
class Result:
    """One class: its layers by kind, what the witness saw besides or instead, and why layers are undecided."""

    name: str
    kinds: dict[str, int]
    widths: dict[int, int]
    missed: list[str]
    extra: list[str]
    note: str | None


def classes() -> dict[str, Any]:
    """The models in diffusers' `transformers` and `unets` that have a config and a forward of their own."""
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.models.modeling_utils import ModelMixin

    found = {}
    for package in ("transformers", "unets"):
        module = importlib.import_module(f"diffusers.models.{package}")
        for info in pkgutil.iter_modules(module.__path__):
            each = importlib.import_module(f"{module.__name__}.{info.name}")
            for name, kind in vars(each).items():
                own = inspect.isclass(kind) and kind.__module__ == each.__name__
                if own and issubclass(kind, ModelMixin) and issubclass(kind, ConfigMixin) and "forward" in vars(kind):
                    found[name] = kind
    return dict(sorted(found.items()))


def config_of(name: str, kind: Any) -> dict[str, Any]:
    """The config a class is looked at with: its defaults, fewer layers deep."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    deep = {p.name for p in parameters if isinstance(p.default, int) and p.default > MOST_LAYERS}
    return {**{key: MOST_LAYERS for key in deep if DEPTH.fullmatch(key)}, **CONFIGS.get(name, {})}


class Witness(TorchFunctionMode):
    """Notes, at every attention, the modules it happens in and how many queries and keys there are."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.saw: list[tuple[tuple[str, ...], int, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            query, key = (args[i] if len(args) > i else kwargs[name] for i, name in enumerate(("query", "key")))
            self.saw.append((tuple(self.inside), query.shape[-2], key.shape[-2]))
        return func(*args, **(kwargs or {}))


def survey(name: str, kind: Any) -> Result | None:
    """What discovery and the witness say; None for a class that cannot be instantiated from its defaults."""
    from eigenbank.builders.discovery.fake_weights import with_fake_weights
    from eigenbank.builders.discovery.inputs import attempts
    from eigenbank.builders.discovery.layers import trace_layers
    from eigenbank.builders.discovery.trace import Tracer

    config = config_of(name, kind)
    try:
        with torch.device("meta"):
            model = kind.from_config(config)
    except Exception:  # whatever a constructor without arguments raises
        return None
    found = trace_layers(model)
    model = with_fake_weights(model)
    witness = Witness()
    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, path=path: witness.inside.append(path)))
        hooks.append(module.register_forward_hook(lambda *_: witness.inside.pop(), always_call=True))
    followed = False
    # Where discovery could not follow the class, the witness, which is given the same arguments, cannot either.
    for attempt in () if found.note and "could not be followed" in found.note else attempts(model):
        arguments = attempt.arguments()
        witness.saw.clear()
        witness.inside.clear()
        try:
            with warnings.catch_warnings(), torch.no_grad(), Tracer(model), witness:
                warnings.simplefilter("ignore")
                model(**arguments)
        except Exception:  # arguments of another layout
            continue
        followed = True
        break
    for hook in hooks:
        hook.remove()
    decided = {layer.name for layer in found.layers if layer.kind != "undecided"}
    selves = {stack for stack, queries, keys in witness.saw if queries == keys and queries != 6} if followed else set()
    seen = {stack for stack, _, _ in witness.saw} if followed else set()
    missed = sorted({stack[-1] for stack in selves if not decided & set(stack)})
    # A few tokens more on the keys' side may be text that image tokens look at besides themselves.
    mixed = {stack for stack, queries, keys in witness.saw if queries < keys <= queries + 8} if followed else set()
    extra = sorted(
        layer
        for layer in decided
        if any(layer in stack for stack in seen) and not any(layer in stack for stack in selves | mixed)
    )
    gc.collect()
    return Result(
        name,
        dict(Counter(layer.kind for layer in found.layers)),
        dict(Counter(layer.width for layer in found.layers)),
        missed,
        extra,
        found.note,
    )


def line(name: str, kind: Any) -> str:
    """A class's row of the table."""
    result = survey(name, kind)
    if result is None:
        return f"| {name} | – | – | not instantiable from its defaults |"
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(result.kinds.items())) or "none"
    widths = ", ".join(f"{width}×{count}" for width, count in sorted(result.widths.items()))
    if result.note and "could not be followed" in result.note:
        verdict = f"not followed: {NOT_FOLLOWED.get(name, result.note)}"
    elif result.missed or result.extra:
        verdict = f"disagrees: {', '.join([*result.missed[:2], *result.extra[:2]])}"
    else:
        verdict = "agrees"
    return f"| {name} | {kinds} | {widths} | {verdict.replace(chr(124), chr(47))} |"


TABLE = Path(__file__).parent.parent / "docs" / "layers.md"
VERDICTS = {
    "agrees": "agreeing",
    "not followed": "not followed",
    "disagrees": "disagreeing",
    "not instantiable": "not instantiable",
}


def written() -> dict[str, str]:
    """Class → its row of the table as it is."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.is_file() else []
    return {line.split("|")[1].strip(): line for line in lines if line.count("|") > 4}


def write(rows: list[str]) -> None:
    """Write docs/layers.md."""
    import diffusers

    verdicts = [row.split("|")[4].strip() for row in rows]
    counts = Counter(next(key for start, key in VERDICTS.items() if verdict.startswith(start)) for verdict in verdicts)
    summary = ", ".join(f"{count} {key}" for key, count in counts.most_common())
    head = ["| class | self-attention layers | widths | the witness |", "|---|---|---|---|"]
    text = (
        f"# Self-attention, class by class\n\nWritten by `python tests/survey.py` with diffusers {diffusers.__version__}: "
        f"{summary}.\n\n[Discovery](discovery.md) traces the class's own forward on fake weights; the witness, a second and simpler "
        "method, only counts tokens. A class whose forward could not be followed lists its layers as `undecided`: name them to build them. "
        f"Of a stack of equal layers, {MOST_LAYERS} were looked at.\n\n" + "\n".join([*head, *rows]) + "\n"
    )
    TABLE.write_text(text, encoding="utf-8")


def main() -> None:
    """Look at every class, or at the named ones and keep the others' rows, and write the table."""
    rows = written() if sys.argv[1:] else {}
    for name, kind in classes().items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            rows[name] = line(name, kind)
            print(rows[name], file=sys.stderr, flush=True)
    write([rows[name] for name in classes() if name in rows])


if __name__ == "__main__":
    main()
