"""Things tests make: checkpoints small enough to run in milliseconds."""

import json
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path


def make_checkpoint(
    folder: Path, *, seed: int = 0, widths: tuple[int, ...] = (16, 32), attention: bool = True, channels: int = 3
) -> Path:
    """Save an untrained DDPMPipeline with self-attention in its second level and in the middle."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D" if attention else "DownBlock2D"),
        up_block_types=("AttnUpBlock2D" if attention else "UpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
        add_attention=attention,
    )
    # What an untrained network lacks to be told from chance: norms that are not all ones.
    for name, parameter in unet.named_parameters():
        if "group_norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=1000)).save_pretrained(folder)
    return folder


class Bomb:
    """What a hostile pickle holds: unpickled, it would create the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.mark)!r}, 'w')",))


def rewrite_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]], filled: Callable[[str], bool]) -> dict[str, int]:
    """A safetensors file in float16, random (by name) where `filled`, elsewhere a hole. Returns where tensors begin."""
    import torch

    header: dict[str, dict[str, object]] = {}
    begin: dict[str, int] = {}
    at = 0
    for name, shape in shapes.items():
        begin[name] = at
        at += 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin[name], at]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
        for number, name in enumerate(shapes):
            if filled(name):
                made = torch.randn(shapes[name], generator=torch.Generator().manual_seed(number)).half()
                file.seek(8 + len(text) + begin[name])
                file.write(made.numpy().tobytes())
    return begin
