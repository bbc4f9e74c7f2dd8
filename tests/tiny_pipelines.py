"""Pipelines that read prompts, as people have them on disk: whole, in their usual dtypes, tiny and of random weights.

`save(kind, folder)` writes one of `KINDS`: text encoders and tokenizers are made on the spot, of letters.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import textpipes
import torch

MOST = 77
"""The longest prompt of CLIP's tokenizers, in tokens."""


def _letters() -> list[str]:
    return [*map(chr, range(97, 123))]


def clip_tokenizer() -> Any:
    """CLIP's tokenizer, of letters."""
    from transformers import CLIPTokenizer

    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *(f"{letter}{end}" for letter in _letters() for end in ("", "</w>")),
        "ab",
    ]
    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\na b\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=MOST)


def clip(width: int = 16, projected: int = 0) -> Any:
    """CLIP's text encoder for that tokenizer; with a projection where `projected` says how wide."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {
        "hidden_size": width,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ids = {"vocab_size": 55, "max_position_embeddings": MOST, "bos_token_id": 0, "eos_token_id": 1}
    if projected:
        return CLIPTextModelWithProjection(CLIPTextConfig(**ids, **sizes, projection_dim=projected)).eval()
    return CLIPTextModel(CLIPTextConfig(**ids, **sizes)).eval()


def t5_tokenizer() -> Any:
    """T5's tokenizer, of letters."""
    from transformers import T5TokenizerFast

    pieces = ["<pad>", "</s>", "<unk>", "▁", *_letters(), *(f"▁{letter}" for letter in _letters())]
    return T5TokenizerFast([(piece, -float(number)) for number, piece in enumerate(pieces)], extra_ids=0)


def t5(kind: str = "T5") -> Any:
    """T5's text encoder for that tokenizer."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=56, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return getattr(transformers, f"{kind}EncoderModel")(config).eval()


def _stable_diffusion() -> Any:
    return _whole("stable-diffusion", text_encoder=clip(), tokenizer=clip_tokenizer())


def _sdxl() -> Any:
    encoders = {"text_encoder": clip(8), "text_encoder_2": clip(8, 16)}
    return _whole("sdxl", **encoders, tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer())


def _sd3() -> Any:
    encoders = {"text_encoder": clip(8, 8), "text_encoder_2": clip(8, 8), "text_encoder_3": t5()}
    tokenizers = {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer(), "tokenizer_3": t5_tokenizer()}
    return _whole("sd3", **encoders, **tokenizers)


def _flux() -> Any:
    encoders = {"text_encoder": clip(), "text_encoder_2": t5()}
    coder = _wide_coder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    return _whole("flux", vae=coder, **encoders, tokenizer=clip_tokenizer(), tokenizer_2=t5_tokenizer())


def _wide_coder(**config: Any) -> Any:
    """An autoencoder whose pictures are eight times as large as its latents, as real ones are."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4,) * 4, latent_channels=4, norm_num_groups=2, sample_size=256,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **config,
    )  # fmt: skip


def _pixart() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    coder = _wide_coder(scaling_factor=5.0)  # PixArt draws no smaller pictures than 256×256
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=32, cross_attention_dim=16,
        caption_channels=16, norm_type="ada_norm_single", use_additional_conditions=False, norm_elementwise_affine=False,
    )  # fmt: skip
    return PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5(), vae=coder, transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip


def _wan() -> Any:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    coder = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    high, low = (
        WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32,
            num_layers=1,
        )
        for _ in range(2)
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return WanPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5("UMT5"), vae=coder, transformer=high, transformer_2=low, boundary_ratio=0.5,
        scheduler=scheduler,
    )  # fmt: skip


KINDS: dict[str, tuple[Callable[[], Any], torch.dtype, str | None]] = {
    "sd": (_stable_diffusion, torch.float32, None),
    "sdxl": (_sdxl, torch.float16, "fp16"),
    "sd3": (_sd3, torch.float16, None),
    "flux": (_flux, torch.bfloat16, None),
    "pixart": (_pixart, torch.float16, None),
    "wan": (_wan, torch.bfloat16, None),
}
"""How each is made, the dtype it is saved in, and the only variant there is."""
SIZE = {"flux": (32, 32), "wan": (32, 32)}
"""A size for those whose own is large, whatever the weights."""


def make(kind: str) -> Any:
    """A pipeline of a kind, in float32; the same every time."""
    torch.manual_seed(0)
    pipe = KINDS[kind][0]()
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
            _liven(component)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save(kind: str, folder: Path) -> Path:
    """Save a pipeline as its authors would publish it: one dtype, for `sdxl` as a variant only."""
    _, dtype, variant = KINDS[kind]
    make(kind).to(dtype=dtype).save_pretrained(folder, variant=variant)
    return folder


def save_mixed(folder: Path) -> Path:
    """Save SDXL as its authors did: text encoders in float16, all else in float32."""
    pipe = make("sdxl")
    pipe.text_encoder.half()
    pipe.text_encoder_2.half()
    pipe.save_pretrained(folder)
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


def _whole(family: str, **parts: Any) -> Any:
    pipe = textpipes.pipeline(family)
    extra = {"requires_safety_checker": False} if family == "stable-diffusion" else {}
    extra |= {"add_watermarker": False} if family == "sdxl" else {}
    return type(pipe)(**{**pipe.components, **parts}, **extra)


def _liven(module: torch.nn.Module) -> None:
    """Fill what starts at zero and would hide all behind it: gates and last layers; and let a norm's channels differ."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if not parameter.any() and not name.endswith("bias"):
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
