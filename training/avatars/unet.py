"""The denoiser, trained together with the text encoder on the latents of the renders."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from avatars.captions import caption
from avatars.loop import Schedule, Workers, train
from avatars.text import WIDTH, token_ids
from avatars.vae import importance

SCHEDULE = Schedule(steps=10_000, batch=32, rate=1.2e-3, warmup=500)
RATES = {"unet": 1.0, "text_encoder": 0.2}
WITHOUT_CAPTION = 0.1
"""Share of the batch trained on the empty prompt, for classifier-free guidance."""
NOISE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}


def new_unet(
    seed: int = 0, channels: tuple[int, int, int] = (64, 96, 128), text_width: int = WIDTH
) -> UNet2DConditionModel:
    """Self- and cross-attention at 16×16, 8×8 and in the middle, four heads."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """What samples: DDIM, `set_alpha_to_one` and no clipping, since latents are no pixels."""
    return DDIMScheduler(**NOISE, clip_sample=False, steps_offset=1)


class _Attention:
    """Attention in float32 inside bfloat16 training: on a CPU the fused kernel's bfloat16 takes three times as long."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, tokens, width = hidden_states.shape
        parts = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (
            part.float().view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2) for part in parts
        )
        with torch.autocast(query.device.type, enabled=False):
            out = functional.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](out.transpose(1, 2).reshape(batch, tokens, width))  # type: ignore[no-any-return]


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    latents: Tensor,
    factors: Sequence[Sequence[int]],
    state: Path,
    workers: Workers,
    schedule: Schedule = SCHEDULE,
    stop: int | None = None,
) -> None:
    """Train both networks in place on `(n, 4, 16, 16)` latents and their factors."""
    scheduler = DDPMScheduler(**NOISE)
    weights = importance(latents.shape[-1]).to(workers.device)

    def loss(_step: int, generator: torch.Generator, batch: int) -> Tensor:
        chosen = torch.randint(len(latents), (batch,), generator=generator)
        draw = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        texts = [
            "" if draw.random() < WITHOUT_CAPTION else caption(factors[number], draw) for number in chosen.tolist()
        ]
        clean = latents[chosen].to(workers.device)
        noise = torch.randn(clean.shape, generator=generator).to(workers.device)
        fraction = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        times = (fraction * scheduler.config.num_train_timesteps).long().to(workers.device)
        text = text_encoder(token_ids(tokenizer, texts).to(workers.device)).last_hidden_state
        predicted = unet(scheduler.add_noise(clean, noise, times), times, text).sample
        error: Tensor = predicted.float() - scheduler.get_velocity(clean, noise, times)
        return (error.square() * weights).mean()

    if workers.device.type == "cpu":
        unet.set_attn_processor(_Attention())
    networks = {"unet": unet, "text_encoder": text_encoder}
    train("unet", networks, loss, schedule, state, workers, rates=RATES, stop=stop)
    unet.set_attn_processor(AttnProcessor2_0())
