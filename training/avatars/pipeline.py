"""The finished checkpoint: saved in Stable Diffusion's layout, sampled, and judged by the factor reader."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from avatars.captions import choose, say
from avatars.factors import FACTORS, NAMES, sample_factors
from avatars.reader import read_values
from avatars.renders import SIZE
from avatars.text import save_tokenizer
from avatars.unet import new_scheduler
from eigenbank.builders.label.attributes import AttributeModel

STEPS = 20
GUIDANCE = 4.0
PROMPTS = (
    "a person with long wavy red hair and pale skin, smiling",
    "a cartoon person with a long grey beard and spiky hair",
    "a laughing face with a black bun and brown skin",
    "someone with angry eyebrows, an angry mouth and short black hair",
    "an avatar with closed eyes and short blond hair in a green turtleneck",
    "a portrait of a person in a pink dress on a yellow background",
    "a winking person with dark skin, a moustache and a white t-shirt",
    "a surprised face with raised eyebrows and an open mouth, red jacket",
)
NOTICE = Path(__file__).parents[1] / "NOTICE"
CARD = """---
license: cc-by-4.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [eigenbank]
---
# Avatars, 64×64

A small text-to-image checkpoint in Stable Diffusion's layout ({parameters:.1f} M parameters), made to try things with on a
laptop. It draws cartoon avatars from prompts such as

{prompts}

```python
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("avatars-64", torch_dtype=torch.float32)
image = pipe("{first}", num_inference_steps={steps}, guidance_scale={guidance}).images[0]
```

Words it knows: {words}. Anything else is as good as unsaid. Nothing in the training data has a gender: every factor is
independent of the others.

Trained by the eigenbank project (`training/`) on {renders:,} renders; weights are float16, averaged over training.
U-Net steps: {step:,} of {steps_planned:,}. `unet/diffusion_pytorch_model.safetensors` sha256: `{digest}`

`attributes/` reads seventeen sliders off pictures. `clip/` is a small image-text model of the same renders (CLIP's classes), for
`eigenbank find` and `--labeler clip`, with twenty words; `python -m avatars words` trains it and prints how well it reads: all but eyebrows.
`directions/` is its direction set as eigenbank made it (`make directions`).

## Licences

{notice}
"""


def assemble(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """The four parts as a pipeline, without a safety checker."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save(pipeline: StableDiffusionPipeline, folder: Path, step: int, steps_planned: int, renders: int) -> None:
    """Write the checkpoint, float16, with its card and NOTICE."""
    pipeline.to(torch.float16).save_pretrained(folder)
    save_tokenizer(pipeline.tokenizer, folder / "tokenizer")
    networks = pipeline.unet, pipeline.vae, pipeline.text_encoder
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    notice = NOTICE.read_text(encoding="utf-8")
    card = CARD.format(
        parameters=sum(tensor.numel() for network in networks for tensor in network.parameters()) / 1e6,
        prompts="\n".join(f"- {prompt}" for prompt in PROMPTS),
        first=PROMPTS[0],
        steps=STEPS,
        guidance=GUIDANCE,
        words=", ".join(value for factor in FACTORS for value in factor.values),
        renders=renders,
        step=step,
        steps_planned=steps_planned,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        notice=notice.strip(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "NOTICE").write_text(notice, encoding="utf-8")


def draw(pipeline: StableDiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """One picture for each prompt and seed, `(n, 3, 64, 64)` in [0, 1], in batches of sixteen."""
    pictures = []
    for start in range(0, len(prompts), 16):
        part = slice(start, start + 16)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "pt"}
        pictures.append(pipeline(list(prompts[part]), generator=noise, **settings).images.float().cpu())
    return torch.cat(pictures)


def image_grid(pipeline: StableDiffusionPipeline, prompts: Sequence[str], columns: int) -> Image.Image:
    """A row of pictures for each prompt, seeds 0, 1, …, with the prompt above."""
    seeds = [seed for _ in prompts for seed in range(columns)]
    pictures = draw(pipeline, [prompt for prompt in prompts for _ in range(columns)], seeds)
    side, line = SIZE * max(2, 8 // columns), 14  # wide enough for the prompts
    grid = Image.new("RGB", (columns * side, len(prompts) * (side + line)), "white")
    pen = ImageDraw.Draw(grid)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
        grid.paste(image, (column * side, row * (side + line) + line))
    for row, prompt in enumerate(prompts):
        pen.text((2, row * (side + line)), prompt, fill="black")
    return grid


def prompts_followed(
    pipeline: StableDiffusionPipeline, reader: AttributeModel, count: int, seed: int
) -> dict[str, tuple[int, int]]:
    """For each factor, in how many of the pictures whose prompt mentions it the reader agrees, and how many those are.

    Prompts are captions of random factors; seeds of the noise are those from `seed` on.
    """
    words = random.Random(seed)
    wanted = sample_factors(count, torch.Generator().manual_seed(seed))
    mentioned = [choose(words) for _ in range(count)]
    prompts = [say(row, names, words) for row, names in zip(wanted.tolist(), mentioned, strict=True)]
    read = read_values(reader, draw(pipeline, prompts, range(seed, seed + count)))
    followed = {}
    for column, name in enumerate(NAMES):
        said = torch.tensor([name in names for names in mentioned])
        followed[name] = int(((read == wanted)[:, column] & said).sum()), int(said.sum())
    return followed
