"""Self-attention is told from all other attention by what its blocks feed it, in every family."""

from collections import Counter
from typing import Any

import pytest
import torch

from eigenbank.builders.discovery.families import Discovery, discover
from eigenbank.builders.discovery.layers import trace_layers
from eigenbank.schemas import Layer
from eigenbank.schemas.errors import SourceError
from eigenbank.schemas.recipe import SITES, Site

UNET = {
    "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
    "attention_head_dim": 8, "cross_attention_dim": 32, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


def found(kind: str, **config: Any) -> Discovery:
    return discover({"_class_name": kind, **config})


def by_name(discovery: Discovery) -> dict[str, Layer]:
    return {layer.name: layer for layer in discovery.layers}


def rows(layer: Layer, role: Any) -> tuple[str, Any]:
    part = layer.tensors[role]
    return part.tensor.removeprefix(f"{layer.name}."), part.rows


def test_stable_diffusions_cross_attention_is_left_out_though_its_width_is_the_same() -> None:
    layers = by_name(found("UNet2DConditionModel", **UNET))
    assert layers
    assert all(name.endswith("attn1") and layer.kind == "spatial" for name, layer in layers.items())
    assert all(layer.frame == "after norm" and "norm" in layer.tensors for layer in layers.values())


def test_the_layers_of_stable_diffusion_1() -> None:
    discovery = found("UNet2DConditionModel", cross_attention_dim=768, attention_head_dim=8)
    assert Counter(layer.width for layer in discovery.layers) == {320: 5, 640: 5, 1280: 6}
    assert discovery.note is None


def test_only_cross_attention_makes_attn1_no_self_attention() -> None:
    # The middle block does not heed the setting: its attn1 stays what it is.
    layers = by_name(found("UNet2DConditionModel", **UNET, only_cross_attention=True))
    assert list(layers) == ["mid_block.attentions.0.transformer_blocks.0.attn1"]


def test_a_flux_single_block_has_no_out_projection_of_its_own() -> None:
    discovery = found(
        "FluxTransformer2DModel", num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    double, single = (by_name(discovery)[f"{name}transformer_blocks.0.attn"] for name in ("", "single_"))
    assert (double.kind, single.kind) == ("joint", "joint")
    assert double.tensors["output"].tensor == "transformer_blocks.0.attn.to_out.0.weight"
    assert "output" not in single.tensors
    assert double.norm is not None
    assert double.norm.adaptive


def test_a_fused_projection_is_split_into_its_rows() -> None:
    discovery = found(
        "Flux2Transformer2DModel", num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    single = by_name(discovery)["single_transformer_blocks.0.attn"]
    assert [rows(single, role) for role in ("query", "key", "value")] == [
        ("to_qkv_mlp_proj.weight", ((0, 32),)),
        ("to_qkv_mlp_proj.weight", ((32, 64),)),
        ("to_qkv_mlp_proj.weight", ((64, 96),)),
    ]
    assert single.tensors["output"].columns == (0, 32)


def test_grouped_queries_keep_their_heads_apart() -> None:
    discovery = found(
        "Lumina2Transformer2DModel", hidden_size=64, num_layers=1, num_refiner_layers=1, num_attention_heads=4,
        num_kv_heads=2, cap_feat_dim=32, axes_dim_rope=(8, 4, 4), axes_lens=(300, 512, 512),
    )  # fmt: skip
    layers = by_name(discovery)
    assert {name: layer.kind for name, layer in layers.items()} == {
        "noise_refiner.0.attn": "spatial",
        "layers.0.attn": "joint",
    }
    assert (layers["layers.0.attn"].heads, layers["layers.0.attn"].kv_heads) == (4, 2)


def test_a_second_self_attention_in_the_same_block_is_found() -> None:
    discovery = found(
        "SD3Transformer2DModel", sample_size=16, patch_size=2, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, dual_attention_layers=(0,),
        out_channels=4, pos_embed_max_size=16,
    )  # fmt: skip
    assert {name: layer.kind for name, layer in by_name(discovery).items()} == {
        "transformer_blocks.0.attn": "joint",
        "transformer_blocks.0.attn2": "spatial",
        "transformer_blocks.1.attn": "joint",
    }


def test_attention_over_frames_is_temporal() -> None:
    discovery = found(
        "UNet3DConditionModel", sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=8, cross_attention_dim=32,
    )  # fmt: skip
    kinds = {layer.name: layer.kind for layer in discovery.layers}
    assert kinds["transformer_in.transformer_blocks.0.attn1"] == "temporal"
    assert {kind for name, kind in kinds.items() if ".temp_attentions." in name} == {"temporal"}
    assert {kind for name, kind in kinds.items() if "down_blocks.0.attentions." in name} == {"spatial"}


COGVIDEOX = {
    "activation_fn": "gelu-approximate", "attention_bias": True, "attention_head_dim": 64, "in_channels": 32, "out_channels": 16,
    "max_text_seq_length": 226, "num_attention_heads": 48, "patch_size": 2, "sample_frames": 49, "sample_height": 60, "sample_width": 90,
    "spatial_interpolation_scale": 1.875, "text_embed_dim": 4096, "time_embed_dim": 512, "use_learned_positional_embeddings": True,
    "use_rotary_positional_embeddings": True, "num_layers": 2,
}  # fmt: skip
UNCLIP = {
    "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": 96, "use_linear_projection": True,
    "class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048,
}  # fmt: skip
IF = {
    "act_fn": "gelu", "addition_embed_type": "text", "addition_embed_type_num_heads": 64, "attention_head_dim": 64, "class_embed_type": "timestep",
    "cross_attention_norm": "group_norm", "encoder_hid_dim": 4096, "in_channels": 6, "out_channels": 6, "resnet_time_scale_shift": "scale_shift",
    "time_embedding_act_fn": "gelu", "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "block_out_channels": [224, 448, 672, 896],
    "only_cross_attention": [True, True, True, False],
    "down_block_types": [*["ResnetDownsampleBlock2D"] * 3, "SimpleCrossAttnDownBlock2D"],
    "up_block_types": ["SimpleCrossAttnUpBlock2D", *["ResnetUpsampleBlock2D"] * 3],
}  # fmt: skip
NCSNPP = {
    "attention_head_dim": None, "block_out_channels": [128, 128, 256, 256, 256, 256, 256], "sample_size": 256, "time_embedding_type": "fourier",
    "mid_block_scale_factor": 1.4142135623730951, "norm_num_groups": None, "norm_eps": 1e-06,
    "down_block_types": [*["SkipDownBlock2D"] * 4, "AttnSkipDownBlock2D", *["SkipDownBlock2D"] * 2],
    "up_block_types": [*["SkipUpBlock2D"] * 2, "AttnSkipUpBlock2D", *["SkipUpBlock2D"] * 4],
}  # fmt: skip
X4 = {
    "attention_head_dim": 8, "block_out_channels": [256, 512, 512, 1024], "cross_attention_dim": 1024, "in_channels": 7, "num_class_embeds": 1000,
    "only_cross_attention": [True, True, True, False], "sample_size": 128, "use_linear_projection": True,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3], "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
}  # fmt: skip
KARLO = {
    "attention_head_dim": 64, "block_out_channels": [320, 640, 960, 1280], "class_embed_type": "identity", "cross_attention_dim": 1536,
    "in_channels": 3, "out_channels": 6, "layers_per_block": 3, "resnet_time_scale_shift": "scale_shift",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
}  # fmt: skip
AUDIOLDM = {
    "attention_head_dim": 32, "block_out_channels": [128, 256, 384, 640], "class_embed_type": "simple_projection", "class_embeddings_concat": True,
    "cross_attention_dim": [None, 256, 384, 640], "in_channels": 8, "out_channels": 8, "projection_class_embeddings_input_dim": 512,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3], "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
}  # fmt: skip
LDM_4X = {
    "attention_head_dim": 32, "block_out_channels": [160, 320, 320, 640], "in_channels": 6, "sample_size": 64,
    "down_block_types": [*["DownBlock2D"] * 3, "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", *["UpBlock2D"] * 3],
}  # fmt: skip
# As published: CogVideoX's as found in public repositories, other values as they are remembered; a transformer's two layers are as good as its 42. IF II's (and III's, which is as it is)
# width of text is not at hand: the class's own.
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[tuple[str, int], int]]] = {
    "zai-org/CogVideoX-5b-I2V": ("CogVideoXTransformer3DModel", COGVIDEOX, {("joint", 3072): 2}),
    "zai-org/CogVideoX1.5-5B-I2V": (
        "CogVideoXTransformer3DModel",
        {
            **COGVIDEOX, "ofs_embed_dim": 512, "patch_bias": False, "patch_size_t": 2, "sample_frames": 81, "sample_height": 300,
            "sample_width": 300, "use_learned_positional_embeddings": False,
        },
        {("joint", 3072): 2},
    ),
    "BestWishYsh/ConsisID-preview": (
        "ConsisIDTransformer3DModel",
        {**COGVIDEOX, "is_train_face": True, "cross_attn_interval": 2},
        {("joint", 3072): 2},
    ),
    "stabilityai/stable-diffusion-2-1-unclip": (
        "UNet2DConditionModel",
        UNCLIP,
        {("spatial", 320): 5, ("spatial", 640): 5, ("spatial", 1280): 6},
    ),
    "DeepFloyd/IF-II-L-v1.0": ("UNet2DConditionModel", IF, {("joint", 896): 6}),
    "stabilityai/stable-diffusion-x4-upscaler": ("UNet2DConditionModel", X4, {("spatial", 1024): 6}),
    "CompVis/ldm-super-resolution-4x-openimages": ("UNet2DModel", LDM_4X, {("spatial", 640): 6}),
    "kakaobrain/karlo-v1-alpha": ("UNet2DConditionModel", KARLO, {("joint", 640): 7, ("joint", 960): 7, ("joint", 1280): 8}),
    "cvssp/audioldm": ("UNet2DConditionModel", AUDIOLDM, {("spatial", 256): 5, ("spatial", 384): 5, ("spatial", 640): 6}),
    "google/ncsnpp-celebahq-256": ("UNet2DModel", NCSNPP, {("spatial", 256): 4}),
    # Its defaults are the ones for Stable Diffusion 2.1. The adapter's own layers are narrow.
    "ControlNet-XS": (
        "UNetControlNetXSModel",
        {},
        {
            ("spatial", 320): 5, ("spatial", 640): 5, ("spatial", 1280): 6,
            ("spatial", 4): 2, ("spatial", 8): 2, ("spatial", 16): 3,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_layer_of_a_published_config_is_decided_and_can_be_steered(name: str) -> None:
    kind, config, expected = PUBLISHED[name]
    discovery = found(kind, **config)
    assert discovery.note is None
    assert Counter((layer.kind, layer.width) for layer in discovery.layers) == expected
    assert all(len(layer.sites) == 3 for layer in discovery.layers)


@pytest.mark.parametrize("kind", ["timestep", "identity", "projection", "simple_projection"])
def test_a_unet_is_followed_whatever_it_takes_for_a_class(kind: str) -> None:
    discovery = found("UNet2DConditionModel", **UNET, class_embed_type=kind, projection_class_embeddings_input_dim=24)
    assert {layer.kind for layer in discovery.layers} == {"spatial"}


OFFERED: dict[str, tuple[dict[str, Any], set[Site]]] = {
    # A pass shows their image tokens nowhere apart from the text's.
    "PriorTransformer": ({"num_layers": 1}, set()),
    "MiniMaxH3Transformer3DModel": ({"num_layers": 1}, set()),
    # Its output projection lies outside of the attention, whose output has another shape.
    "LuminaNextDiT2DModel": (
        {"hidden_size": 24, "num_layers": 1, "num_attention_heads": 3, "num_kv_heads": 1, "cross_attention_dim": 32},
        {"projection-input", "block-input"},
    ),
    "WanVACETransformer3DModel": ({"num_layers": 2, "vace_layers": [0, 1]}, {"projection-input", "block-output", "block-input"}),
    # Its blocks have the tokens before the samples.
    "ErnieImageTransformer2DModel": ({"num_layers": 1}, {"projection-input", "block-output"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OFFERED)
def test_a_layer_is_offered_at_the_sites_where_it_can_be_steered(kind: str) -> None:
    config, expected = OFFERED[kind]
    layers = found(kind, **config).layers
    assert layers
    for layer in layers:
        assert {site for site in SITES.values() if layer.can_steer(site)} == expected, layer.name
    if kind.startswith("WanVACE"):
        second = next(layer for layer in layers if layer.name == "vace_blocks.1.attn1")
        assert second.sites["block-input"].argument == "control_hidden_states"


def test_linear_attention_is_attention() -> None:
    discovery = found(
        "SanaTransformer2DModel", num_layers=1, attention_head_dim=16, num_attention_heads=4, num_cross_attention_heads=4,
        cross_attention_head_dim=16, cross_attention_dim=64, caption_channels=32, sample_size=8,
    )  # fmt: skip
    (layer,) = discovery.layers
    assert (layer.name, layer.kind, layer.heads) == ("transformer_blocks.0.attn1", "spatial", 4)
    assert all(part.rows is None for part in layer.tensors.values())


def test_a_text_refiner_is_no_layer() -> None:
    discovery = found(
        "HunyuanVideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
        num_layers=1, num_single_layers=1, num_refiner_layers=1, text_embed_dim=32, pooled_projection_dim=32,
        rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    assert set(by_name(discovery)) == {"transformer_blocks.0.attn", "single_transformer_blocks.0.attn"}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_config_so_tiny_that_a_projection_has_no_width_is_refused_in_words() -> None:
    discovery = found(
        "I2VGenXLUNet", block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, num_attention_heads=2, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip
    assert all(layer.width for layer in discovery.layers)
    assert discovery.note is not None
    assert "could not be followed" in discovery.note


def test_a_config_of_more_heads_than_a_set_may_describe_is_refused_in_words() -> None:
    with pytest.raises(SourceError, match="heads: Input should be less than"):
        found("DiTTransformer2DModel", num_attention_heads=4100, attention_head_dim=1, num_layers=1)


def test_a_class_that_cannot_be_followed_lists_its_layers_as_undecided() -> None:
    discovery = found("MiniMaxMusic3RVQDepthDecoder")
    assert {layer.kind for layer in discovery.layers} <= {"undecided"}
    assert discovery.note is not None
    assert "undecided" in discovery.note


@pytest.mark.parametrize("kind", ["UNet2DConditionModel", "FluxTransformer2DModel"])
def test_discovery_takes_no_memory_for_weights(kind: str) -> None:
    from eigenbank.builders.discovery.fake_weights import empty_model, with_fake_weights

    model = with_fake_weights(empty_model({"_class_name": kind}))
    assert all(parameter.untyped_storage().nbytes() <= 8 for parameter in model.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())


class Guided(torch.nn.Module):
    """guided-diffusion's attention: a norm, one Conv1d for q, k and v (head by head in the legacy order), one to go out."""

    def __init__(self, heads: int, legacy: bool) -> None:
        super().__init__()
        self.heads, self.legacy = heads, legacy
        self.norm = torch.nn.GroupNorm(4, 16)
        self.qkv = torch.nn.Conv1d(16, 48, 1)
        self.proj_out = torch.nn.Conv1d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(x.shape[0], 16, -1)
        qkv = self.qkv(self.norm(flat))
        n, size = flat.shape[-1], 16 // self.heads
        if self.legacy:
            q, k, v = qkv.reshape(self.heads, 3 * size, n).split(size, dim=1)
        else:
            q, k, v = (each.reshape(self.heads, size, n) for each in qkv.chunk(3, dim=1))
        weights = torch.einsum("bct,bcs->bts", q * size**-0.25, k * size**-0.25).softmax(-1)
        mixed = torch.einsum("bts,bcs->bct", weights, v).reshape(1, 16, n)
        return (flat + self.proj_out(mixed)).reshape(x.shape)


class GuidedNet(torch.nn.Module):
    """A denoiser of one such block."""

    def __init__(self, heads: int, legacy: bool) -> None:
        super().__init__()
        self.config = {"in_channels": 16}
        self.conv_in = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.attention = Guided(heads, legacy)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.attention(self.conv_in(sample))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_conv1d_projection_of_guided_diffusion_is_split_in_its_own_order(legacy: bool) -> None:
    with torch.device("meta"):
        model = GuidedNet(heads=2, legacy=legacy)
    (layer,) = trace_layers(model).layers
    assert (layer.name, layer.kind, layer.heads, layer.width, layer.norm_inside) == (
        "attention",
        "spatial",
        2,
        16,
        True,
    )
    expected = {
        True: {"query": ((0, 8), (24, 32)), "key": ((8, 16), (32, 40)), "value": ((16, 24), (40, 48))},
        False: {"query": ((0, 16),), "key": ((16, 32),), "value": ((32, 48),)},
    }[legacy]
    assert {role: rows(layer, role) for role in expected} == {
        role: ("qkv.weight", found) for role, found in expected.items()
    }
    assert rows(layer, "output") == ("proj_out.weight", None)
