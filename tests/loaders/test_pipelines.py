"""Opening pipelines and drawing from them: images depend on their seeds alone, whatever the pipeline."""

from pathlib import Path

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)
from faces.train import new_scheduler
from faces.train_latent import new_autoencoder

import eigenbank as eb
from eigenbank.loaders.pipelines import open_pipeline
from eigenbank.loaders.sample import sample


def class_conditional(folder: Path, classes: int) -> Path:
    """A tiny DiT checkpoint with DDPM's sampler, as they are published."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=classes,
    )
    for block in transformer.transformer_blocks:  # at initialisation blocks are closed, and classes do nothing
        torch.nn.init.normal_(block.norm1.linear.weight, std=0.5)
        torch.nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight)
    torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.2)
    DiTPipeline(transformer, new_autoencoder(0), new_scheduler()).save_pretrained(folder)
    return folder


def test_a_class_conditional_pipeline_draws_a_class_by_seed(tmp_path: Path) -> None:
    pipe = open_pipeline(class_conditional(tmp_path / "dit", classes=3))
    assert type(pipe.scheduler) is DDIMScheduler
    both = sample(pipe, (4, 8), 3, guidance_scale=1.0)
    torch.testing.assert_close(both[1:], sample(pipe, (8,), 3, guidance_scale=1.0), atol=1e-5, rtol=0)
    named = sample(pipe, (4, 8), 3, class_labels=[1, 0], guidance_scale=1.0)
    torch.testing.assert_close(named[0], both[0], atol=1e-5, rtol=0)  # 4 is of class 1, and 8 of class 2
    assert (named[1] - both[1]).abs().max() > 1e-3


def test_a_consistency_models_class_is_told_by_the_seed_too(tmp_path: Path) -> None:
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    torch.manual_seed(0)
    unet = UNet2DModel(
        8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, num_class_embeds=10, **blocks
    )
    torch.nn.init.normal_(unet.class_embedding.weight, std=5.0)
    ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler()).save_pretrained(tmp_path)
    pipe = open_pipeline(tmp_path)
    both = sample(pipe, (4, 18), 1)
    torch.testing.assert_close(sample(pipe, (18,), 1), both[1:], atol=1e-5, rtol=0)
    named = sample(pipe, (4, 18), 1, class_labels=[4, 2])
    torch.testing.assert_close(named[0], both[0], atol=1e-5, rtol=0)
    assert (named[1] - both[1]).abs().max() > 1e-3


def test_a_pipeline_of_one_class_is_not_guided_and_can_be_steered(tmp_path: Path) -> None:
    folder = class_conditional(tmp_path / "dit", classes=1)
    pipe = open_pipeline(folder)
    plain = sample(pipe, (1, 2), 2)
    bank = eb.build(str(folder), recipes=["output-value"], top_k=1)
    with eb.steer(pipe, {next(iter(bank)): 5.0}):
        assert (sample(pipe, (1, 2), 2) - plain).abs().max() > 1e-4
    assert torch.equal(sample(pipe, (1, 2), 2), plain)
