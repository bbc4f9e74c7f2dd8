"""The original layouts of well-known checkpoints: names as their authors' own code gives them, and shapes."""

import re
from typing import Any

Shapes = dict[str, tuple[int, ...]]
LDM = "model.diffusion_model."

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip


def ldm_name(name: str, layers: int, attends: set[str]) -> str:
    """CompVis' name of a diffusers U-Net's parameter; `attends`: the up blocks that have attention."""
    stem, _, leaf = name.rpartition(".")
    for ours, theirs in _ENDS.items():
        if stem == ours:
            return f"{LDM}{theirs}.{leaf}"
    found = re.fullmatch(r"(down_blocks|up_blocks|mid_block)\.?(\d*)\.(\w+)\.(\d+)\.(.*)", name)
    assert found, name
    part, level, kind, number, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if part == "mid_block":
        base, at = "middle_block", (2 * number if kind == "resnets" else 1)
        prefix = f"{base}.{at}"
    elif part == "down_blocks":
        if kind == "downsamplers":
            return f"{LDM}input_blocks.{(level + 1) * (layers + 1)}.0.op.{leaf}"
        prefix = f"input_blocks.{1 + level * (layers + 1) + number}.{0 if kind == 'resnets' else 1}"
    else:
        if kind == "upsamplers":
            block = f"output_blocks.{level * (layers + 1) + layers}"
            return f"{LDM}{block}.{2 if f'up_blocks.{level}' in attends else 1}.conv.{leaf}"
        prefix = f"output_blocks.{level * (layers + 1) + number}.{0 if kind == 'resnets' else 1}"
    if kind == "resnets":
        inner, _, leaf = rest.rpartition(".")
        rest = f"{_RESNET[inner]}.{leaf}"
    return f"{LDM}{prefix}.{rest}"


def ldm_unet(config: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Diffusers' name of every parameter of a U-Net → CompVis' name, and the shape."""
    from eigenbank.builders.discovery.fake_weights import empty_model

    model = empty_model(config)
    attends = {".".join(name.split(".")[:2]) for name, _ in model.named_parameters() if ".attentions." in name}
    layers = int(config["layers_per_block"])
    return {name: (ldm_name(name, layers, attends), tuple(p.shape)) for name, p in model.named_parameters()}


def _linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def sd3(depth: int, d: int = 1536) -> Shapes:
    """Stable Diffusion 3 medium, `depth` blocks of it; the last has no text side but its norm."""
    shapes: Shapes = {"pos_embed": (1, 36864, d), "x_embedder.proj.weight": (d, 16, 2, 2), "x_embedder.proj.bias": (d,)}
    for name, into in (
        ("t_embedder.mlp.0", 256),
        ("t_embedder.mlp.2", d),
        ("y_embedder.mlp.0", 2048),
        ("y_embedder.mlp.2", d),
    ):
        shapes |= _linear(name, d, into)
    shapes |= _linear("context_embedder", d, 4096)
    for block in range(depth):
        for side in ("x_block", "context_block"):
            name = f"joint_blocks.{block}.{side}"
            last = side == "context_block" and block == depth - 1
            shapes |= _linear(f"{name}.adaLN_modulation.1", (2 if last else 6) * d, d)
            shapes |= _linear(f"{name}.attn.qkv", 3 * d, d)
            if not last:
                shapes |= _linear(f"{name}.attn.proj", d, d)
                shapes |= _linear(f"{name}.mlp.fc1", 4 * d, d) | _linear(f"{name}.mlp.fc2", d, 4 * d)
    shapes |= _linear("final_layer.linear", 64, d) | _linear("final_layer.adaLN_modulation.1", 2 * d, d)
    return {f"{LDM}{name}": shape for name, shape in shapes.items()}


def flux(double: int, single: int, d: int = 3072, head: int = 128) -> Shapes:
    """FLUX.1-dev, with so many blocks of each kind."""
    shapes: Shapes = _linear("img_in", d, 64) | _linear("txt_in", d, 4096)
    for name, into in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        shapes |= _linear(f"{name}.in_layer", d, into) | _linear(f"{name}.out_layer", d, d)
    for block in range(double):
        for side in ("img", "txt"):
            name = f"double_blocks.{block}.{side}"
            shapes |= _linear(f"{name}_mod.lin", 6 * d, d)
            shapes |= _linear(f"{name}_attn.qkv", 3 * d, d) | _linear(f"{name}_attn.proj", d, d)
            shapes |= {f"{name}_attn.norm.{each}_norm.scale": (head,) for each in ("query", "key")}
            shapes |= _linear(f"{name}_mlp.0", 4 * d, d) | _linear(f"{name}_mlp.2", d, 4 * d)
    for block in range(single):
        name = f"single_blocks.{block}"
        shapes |= _linear(f"{name}.linear1", 7 * d, d) | _linear(f"{name}.linear2", d, 5 * d)
        shapes |= _linear(f"{name}.modulation.lin", 3 * d, d)
        shapes |= {f"{name}.norm.{each}_norm.scale": (head,) for each in ("query", "key")}
    return shapes | _linear("final_layer.linear", 64, d) | _linear("final_layer.adaLN_modulation.1", 2 * d, d)
