"""LoRAs of random weights, as people have them on disk."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def lora_of(denoiser: nn.Module, prefix: str, path: Path, *, form: str = "peft", every: int = 1) -> Path:
    """Write a LoRA of rank 2 for a denoiser's attention, as diffusers or kohya write it."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    layers = [
        (name, module)
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in ("to_q", "to_v", "0") and "attn" in name
    ]
    for name, module in layers[::every]:
        down = torch.randn(2, module.in_features, generator=generator)
        up = torch.randn(module.out_features, 2, generator=generator)
        if form == "peft":
            tensors |= {f"{prefix}.{name}.lora_A.weight": down, f"{prefix}.{name}.lora_B.weight": up}
        else:
            plain = f"lora_unet_{name.replace('.', '_')}"
            tensors |= {f"{plain}.lora_down.weight": down, f"{plain}.lora_up.weight": up}
            tensors[f"{plain}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)
    return path
