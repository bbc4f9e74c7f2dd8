"""`python -m avatars`: render, train, save, sample and read. `python -m avatars all` does everything, or goes on with it."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import torch
from torch import Tensor

from avatars.loop import Workers, steps_done
from avatars.renders import CHUNK, load_renders, render_chunks

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

TRAINING = range(20)
HELD_OUT = range(20, 22)
"""Chunks of 1,024 renders."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path(".train/avatars"),
    help="Folder of renders, training state and logs. Any command goes on from what is there.",
)
@click.pass_context
def main(context: click.Context, state: Path) -> None:
    """Train the demo's text-to-image checkpoint on avatars.

    To train on two CPU cores, let two processes share the work:

      OMP_NUM_THREADS=1 python -m torch.distributed.run --standalone --nproc-per-node 2 -m avatars all --out OUT
    """
    context.obj = state


@main.command()
@click.pass_obj
def render(state: Path) -> None:
    """Render the avatars to train on."""
    workers = Workers.join()
    render_chunks(state / "renders", 0, range(workers.rank, HELD_OUT.stop, workers.count))
    workers.wait()


@main.command()
@click.pass_obj
def vae(state: Path) -> None:
    """Train the autoencoder and encode the renders."""
    workers = Workers.join()
    model = _vae(state, workers)
    _encode_chunks(state, workers, model)


@main.command()
@click.pass_obj
def text(state: Path) -> None:
    """Train the tokenizer, and the text encoder's start."""
    from avatars.text import train_text_encoder, train_tokenizer

    workers = Workers.join()
    _, share = train_text_encoder(train_tokenizer(), state, workers)
    if workers.first:
        click.echo(f"text: reads {share:.1%} of what new captions mention")


@main.command()
@click.pass_obj
def reader(state: Path) -> None:
    """Train the factor reader."""
    from avatars.reader import accuracy, read_values, save_reader, train_reader

    workers = Workers.join()
    model = train_reader(*load_renders(state / "renders", TRAINING), state, workers)
    if workers.first:
        images, factors = load_renders(state / "renders", HELD_OUT)
        save_reader(model, images, factors, state / "attributes")
        for name, share in accuracy(read_values(model, images.float() / 255), factors).items():
            click.echo(f"reader: {name} {share:.1%} of {len(images):,} held-out renders")
    workers.wait()


@main.command()
@click.option("--stop", type=click.IntRange(1), default=None, help="Stop at this step; the schedule stays the same.")
@click.pass_obj
def unet(state: Path, stop: int | None) -> None:
    """Train the denoiser, and the text encoder with it."""
    from avatars.text import train_text_encoder, train_tokenizer
    from avatars.unet import new_unet, train_unet

    workers = Workers.join()
    tokenizer = train_tokenizer()
    encoder, _ = train_text_encoder(tokenizer, state, workers)
    encoder.requires_grad_(True)
    latents = torch.cat([torch.load(_latents(state, number), weights_only=True) for number in TRAINING])
    _, factors = load_renders(state / "renders", TRAINING)
    train_unet(new_unet(), encoder, tokenizer, latents, factors.tolist(), state, workers, stop=stop)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint.")
@click.pass_obj
def save(state: Path, out: Path) -> None:
    """Write the checkpoint as far as it is trained, in Stable Diffusion's layout."""
    from avatars.pipeline import save as write
    from avatars.reader import slider_reader, write_attributes
    from avatars.unet import SCHEDULE
    from eigenbank.builders.label.attributes import load_attribute_model

    write(_pipeline(state), out, steps_done(state, "unet"), SCHEDULE.steps, len(TRAINING) * CHUNK)
    if (state / "attributes").is_dir():
        images, factors = load_renders(state / "renders", HELD_OUT)
        reader = slider_reader(load_attribute_model(state / "attributes"), images, factors)
        write_attributes(reader, out / "attributes")


@main.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="Folder of the saved checkpoint.")
@click.option("--stop", type=click.IntRange(1), default=None, help="Stop at this step; the schedule stays the same.")
@click.pass_obj
def words(state: Path, checkpoint: Path, stop: int | None) -> None:
    """Train the image-text model, and write it into the checkpoint's folder as `clip`."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from avatars.words import CHUNKS, save_words, share_found, train_words, values_read

    workers = Workers.join()
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(checkpoint / "text_encoder", dtype=torch.float32)
    render_chunks(state / "renders", 0, [*CHUNKS, HELD_OUT.start])
    renders = load_renders(state / "renders", CHUNKS)
    model = train_words(tokenizer, encoder, *renders, state, workers, stop=stop)
    if workers.first:
        held_out = load_renders(state / "renders", range(HELD_OUT.start, HELD_OUT.start + 1))
        for name, share in values_read(model, tokenizer, *held_out).items():
            click.echo(f"words: {name} {share:.1%} of {len(held_out[0]):,} held-out renders")
        by_picture, by_text = share_found(model, tokenizer, *held_out)
        click.echo(
            f"words: of 16 captions a held-out render finds its own in {by_picture:.1%}, a caption its render in {by_text:.1%}"
        )
        save_words(model, tokenizer, checkpoint / "clip")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A PNG file.")
@click.option(
    "--prompt", "prompts", multiple=True, help="Again for each row; by default the checkpoint card's prompts."
)
@click.option("--columns", type=click.IntRange(1), default=4)
@click.pass_obj
def sample(state: Path, out: Path, prompts: tuple[str, ...], columns: int) -> None:
    """Draw pictures with the checkpoint as far as it is trained."""
    from avatars.pipeline import PROMPTS, image_grid

    image_grid(_pipeline(state), prompts or PROMPTS, columns).save(out)


@main.command()
@click.option("--count", type=click.IntRange(1), default=256, help="Prompts.")
@click.option("--seed", type=int, default=10_000)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Read this one's pictures [default: as far as trained]."
)
@click.option("--reader", type=click.Path(path_type=Path), help="Folder of the factor reader [default: the state's].")
@click.pass_obj
def read(state: Path, count: int, seed: int, checkpoint: Path | None = None, reader: Path | None = None) -> None:
    """Print how many of the factors that prompts mention are in the pictures, by the factor reader."""
    from avatars.pipeline import prompts_followed
    from eigenbank.builders.label.attributes import load_attribute_model
    from eigenbank.loaders.pipelines import open_pipeline

    pipeline = _pipeline(state) if checkpoint is None else open_pipeline(checkpoint)
    pairs = prompts_followed(pipeline, load_attribute_model(reader or state / "attributes"), count, seed)
    for name, (right, said) in pairs.items():
        click.echo(f"{name}: {right / max(said, 1):.1%} of {said}")
    right, said = (sum(column) for column in zip(*pairs.values(), strict=True))
    click.echo(f"all: {right / said:.1%} of {said}, by {count} prompts")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint.")
@click.pass_context
def all(context: click.Context, out: Path) -> None:
    """Do everything in turn, or go on with it."""
    for command in (render, vae, text, reader, unet):
        context.invoke(command)
    workers = Workers.join()
    if workers.first:
        context.invoke(save, out=out)
    workers.wait()
    context.invoke(words, checkpoint=out)  # by all of them: it trains
    if workers.first:
        context.invoke(sample, out=out / "samples.png")
        context.invoke(read)


def _vae(state: Path, workers: Workers) -> "AutoencoderKL":
    """The finished autoencoder, trained if it is not there."""
    from diffusers import AutoencoderKL

    from avatars.vae import psnr, train_vae

    folder = state / "vae"
    if not folder.is_dir():
        images, _ = load_renders(state / "renders", TRAINING)
        model = train_vae(images, state, workers)
        if workers.first:
            held_out, _ = load_renders(state / "renders", HELD_OUT)
            decibels = psnr(model, held_out)
            click.echo(f"vae: {decibels:.2f} dB on {len(held_out):,} held-out renders")
            partial = state / "vae.part"
            model.save_pretrained(partial)
            (partial / "psnr.json").write_text(json.dumps({"psnr": decibels}), encoding="utf-8")
            os.replace(partial, folder)
        workers.wait()
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)


def _latents(state: Path, chunk: int) -> Path:
    return state / "latents" / f"{chunk:03d}.pt"


def _encode_chunks(state: Path, workers: Workers, model: "AutoencoderKL") -> None:
    from avatars.vae import encode

    model.to(workers.device)
    for number in TRAINING[workers.rank :: workers.count]:
        path = _latents(state, number)
        if path.is_file():
            continue
        images, _ = load_renders(state / "renders", range(number, number + 1))
        latents: Tensor = encode(model, images.to(workers.device)).cpu()
        path.parent.mkdir(exist_ok=True)
        torch.save(latents, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
    workers.wait()


def _pipeline(state: Path) -> "StableDiffusionPipeline":
    """The checkpoint as far as it is trained: the averaged weights."""
    from avatars.pipeline import assemble
    from avatars.text import new_text_encoder, train_tokenizer
    from avatars.unet import new_unet, train_unet

    alone = Workers(0, 1, torch.device("cpu"))
    tokenizer = train_tokenizer()
    encoder, denoiser = new_text_encoder(tokenizer), new_unet()
    train_unet(denoiser, encoder, tokenizer, torch.zeros(1, 4, 16, 16), [], state, alone, stop=0)
    return assemble(_vae(state, alone), encoder, tokenizer, denoiser)


if __name__ == "__main__":
    main()
