"""Whole text-to-image pipelines at tiny sizes, with text encoders and tokenizers, as folders and as single files."""

import json
import re
from pathlib import Path
from typing import Any

import textpipes
import torch


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with a vocabulary of single letters."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz ,."
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def text_encoder(width: int, kind: str = "CLIPTextModel") -> Any:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=16,
        max_position_embeddings=16, bos_token_id=58, eos_token_id=59, pad_token_id=59,
    )  # fmt: skip
    torch.manual_seed(1)
    return getattr(transformers, kind)(config).eval()


def stable_diffusion(work: Path) -> Any:
    """Stable Diffusion with prompts, without a safety checker."""
    pipe = textpipes.pipeline("stable-diffusion")
    pipe.register_modules(text_encoder=text_encoder(16), tokenizer=tokenizer(work / "tokenizer"))
    return pipe


def sdxl(work: Path) -> Any:
    """SDXL with prompts: two text encoders, of widths that make up the U-Net's."""
    pipe = textpipes.pipeline("sdxl")
    pipe.register_modules(
        text_encoder=text_encoder(8),
        text_encoder_2=text_encoder(8, "CLIPTextModelWithProjection"),
        tokenizer=tokenizer(work / "tokenizer"),
        tokenizer_2=tokenizer(work / "tokenizer_2"),
    )
    return pipe


def sdxl_folder(folder: Path, variant: str | None = None) -> Path:
    """SDXL's official layout: text encoders in float16, all else in float32; with a variant, all of it in float16."""
    pipe = sdxl(folder.with_name(f"{folder.name}-work"))
    if variant is None:
        pipe.text_encoder.half()
        pipe.text_encoder_2.half()
    else:
        pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder, variant=variant)
    return folder


def single_file(pipe: Any, path: Path) -> Path:
    """A Stable Diffusion pipeline as one file, in CompVis' names."""
    import original
    from safetensors.torch import save_file

    tensors = {
        f"model.diffusion_model.{named}": pipe.unet.get_parameter(name)
        for name, (named, _) in original.ldm_unet(dict(pipe.unet.config)).items()
    }
    last = len(pipe.vae.config.block_out_channels) - 1
    for name, tensor in pipe.vae.state_dict().items():
        found = re.sub(r"up_blocks\.(\d+)\.", lambda each: f"up.{last - int(each[1])}.", name)
        for now, then in VAE.items():
            found = re.sub(now, then, found)
        square = ".attn_1." in found and tensor.ndim == 2
        tensors[f"first_stage_model.{found}"] = tensor[:, :, None, None] if square else tensor
    prefix = "cond_stage_model.transformer."
    tensors |= {
        f"{prefix}{name if name.startswith('text_model') else f'text_model.{name}'}": tensor
        for name, tensor in pipe.text_encoder.state_dict().items()
    }
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    return path


VAE = {
    r"down_blocks\.(\d+)\.": r"down.\1.", r"mid_block\.resnets\.0": "mid.block_1", r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1", r"resnets": "block", r"(down|up)samplers\.0": r"\1sample", r"conv_shortcut": "nin_shortcut",
    r"conv_norm_out": "norm_out", r"group_norm": "norm", r"to_q": "q", r"to_k": "k", r"to_v": "v", r"to_out\.0": "proj_out",
}  # fmt: skip
"""Parts of names in an autoencoder, and CompVis' names of them."""
