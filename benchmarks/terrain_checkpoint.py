"""The terrain model of PyPI's `adaptive-terrain-diffusion`, fetched, and converted from ONNX to a pipeline of diffusers.

A consistency U-Net (Song et al., arXiv 2303.01469) that its author trained on height maps of 128×128, and distilled to one step; MIT.
Neither it nor the packages that read ONNX are dependencies: pip puts them into a folder of their own.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from torch import Tensor, nn

PACKAGE = "adaptive-terrain-diffusion==0.4.2"
MODEL = "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx"
SHA256 = "95be54b4a39d58320e187a7ec533351c957f16a00be58773c86074828ee67887"
READERS = ("onnx", "onnxruntime", "protobuf", "ml_dtypes", "flatbuffers")
SIGMA = 80.0
"""The noise's standard deviation, from which its one step starts."""
DIFFICULTIES = 100
"""The model is told how difficult a map is to cross, by a number from 0 to 1; its package offers a hundred of these. Here they are classes."""
NEAR = 1e-5
CHECKED = (0, 24, 60, 99)
"""The difficulties, one for each map, at which the converted model is compared with the original."""


class TerrainError(Exception):
    """The model cannot be had, or is not what was expected."""


def terrain_checkpoint(folder: Path) -> Path:
    """Return the pipeline's folder within `folder`; fetched, converted and compared with the original first where it is not there.

    Raises TerrainError where pip cannot fetch, the file is another one, or the two models differ by more than 1e-5.
    """
    made = folder / "terrain"
    if (made / "model_index.json").exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / Path(MODEL).name
    if not file.exists():
        _pip("download", "--no-deps", "--dest", str(folder), PACKAGE)
        with zipfile.ZipFile(next(folder.glob("adaptive_terrain_diffusion-*.whl"))) as wheel:
            file.write_bytes(wheel.read(MODEL))
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        message = f"{file} is not the file of {PACKAGE} that this was written for: nothing was converted"
        raise TerrainError(message)
    readers = folder / "readers"
    if not readers.exists():
        limits = Path(__file__).parents[1] / "constraints.txt"
        _pip("install", "--no-deps", "--target", str(readers), "--constraint", str(limits), *READERS)
    sys.path.append(str(readers))
    pipe = converted(file)
    differs = difference(pipe.unet, file)
    if differs > NEAR:
        message = (
            f"the converted model differs from the original by {differs:.1e}, more than {NEAR:g}: nothing was kept"
        )
        raise TerrainError(message)
    print(f"converted; it differs from the original by at most {differs:.1e}, of a range of 2")
    pipe.save_pretrained(made)
    return made


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=False)
    if done.returncode:
        message = f"pip {arguments[0]} failed: the terrain model is fetched from PyPI, with packages that read it"
        raise TerrainError(message)


def converted(file: Path) -> ConsistencyModelPipeline:
    """The pipeline of an ONNX file. Raises TerrainError where it holds other weights than expected."""
    unet = blank()
    own = unet.state_dict()
    made = dict(_weights(file))
    if made.keys() != own.keys() or any(own[name].shape != made[name].shape for name in own):
        message = f"{file} does not hold the weights expected: {sorted(made.keys() ^ own.keys())[:4]}"
        raise TerrainError(message)
    unet.load_state_dict(made)
    scheduler = CMStochasticIterativeScheduler(sigma_max=SIGMA)
    return ConsistencyModelPipeline(unet.eval(), scheduler)


def blank() -> UNet2DModel:
    """The U-Net, untrained."""
    return UNet2DModel(
        sample_size=128,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32, 64, 96, 128),
        layers_per_block=4,
        down_block_types=("ResnetDownsampleBlock2D",) * 2 + ("AttnDownBlock2D",) * 3,
        up_block_types=("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 2,
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=32,
        attn_norm_num_groups=32,
        num_class_embeds=DIFFICULTIES,
    )


def difference(unet: nn.Module, file: Path) -> float:
    """The largest difference between what both models make of the same noise, in heights from −1 to 1."""
    import onnxruntime

    noise = SIGMA * torch.randn(len(CHECKED), 1, 128, 128, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    classes = torch.tensor(CHECKED)
    given = {"noisy": noise, "sigma": torch.full((len(CHECKED),), SIGMA), "difficulty": classes / (DIFFICULTIES - 1)}
    theirs = torch.from_numpy(session.run(["denoised"], {name: value.numpy() for name, value in given.items()})[0])
    scheduler = CMStochasticIterativeScheduler(sigma_max=SIGMA)
    scheduler.set_timesteps(1)
    with torch.no_grad():
        time = scheduler.timesteps[0]
        read = unet(scheduler.scale_model_input(noise, time), time, class_labels=classes).sample
    ours = scheduler.step(read, time, noise).prev_sample
    return float((ours - theirs).abs().max())


def _weights(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights under diffusers' names. Norms have no names in the file: they come in the order in which they are run."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(str(file)).graph
    stored = {each.name: torch.from_numpy(to_array(each).copy()) for each in graph.initializer}
    users = {name: node for node in graph.node for name in node.input}
    norms = []
    for node in graph.node:
        if node.op_type == "InstanceNormalization":
            times = users[users[node.output[0]].output[0]]  # a reshape, γ, β
            plus = users[times.output[0]]
            norms.append(
                [next(stored[name].flatten() for name in each.input if name in stored) for each in (times, plus)]
            )
    ordered = iter(norms)

    def norm(name: str) -> Iterator[tuple[str, Tensor]]:
        yield from zip((f"{name}.weight", f"{name}.bias"), next(ordered), strict=True)

    def parameters(theirs: str, ours: str) -> Iterator[tuple[str, Tensor]]:
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", stored[f"network.{theirs}.{kind}"]

    for number in (0, 2):
        yield from parameters(f"time_embed.{number}", f"time_embedding.linear_{1 + number // 2}")
    yield "class_embedding.weight", _classes(stored)
    yield from parameters("input_blocks.0.0", "conv_in")
    for theirs, ours in modules():
        if f"network.{theirs}.qkv.weight" in stored:
            yield from norm(f"{ours}.group_norm")
            for kind in ("weight", "bias"):
                parts = stored[f"network.{theirs}.qkv.{kind}"].flatten(1 if kind == "weight" else 0).chunk(3)
                yield from ((f"{ours}.to_{letter}.{kind}", part) for letter, part in zip("qkv", parts, strict=True))
                yield (
                    f"{ours}.to_out.0.{kind}",
                    stored[f"network.{theirs}.proj_out.{kind}"].flatten(1 if kind == "weight" else 0),
                )
        else:
            yield from norm(f"{ours}.norm1")
            yield from parameters(f"{theirs}.in_layers.2", f"{ours}.conv1")
            yield from parameters(f"{theirs}.emb_layers.1", f"{ours}.time_emb_proj")
            yield from norm(f"{ours}.norm2")
            yield from parameters(f"{theirs}.out_layers.3", f"{ours}.conv2")
            if f"network.{theirs}.skip_connection.weight" in stored:
                yield from parameters(f"{theirs}.skip_connection", f"{ours}.conv_shortcut")
    yield from norm("conv_norm_out")
    yield from parameters("out.2", "conv_out")


def _classes(stored: dict[str, Tensor]) -> Tensor:
    """What the model makes of each difficulty, `(100, 128)`: two linear layers of one number."""
    (first, before), (second, after) = (
        (stored[f"network.label_emb.{number}.weight"], stored[f"network.label_emb.{number}.bias"]) for number in (0, 2)
    )
    difficulty = torch.arange(DIFFICULTIES)[:, None] / (DIFFICULTIES - 1)
    return nn.functional.linear(nn.functional.silu(nn.functional.linear(difficulty, first, before)), second, after)


def modules() -> Iterator[tuple[str, str]]:
    """The blocks in the order in which they are run: OpenAI's names, and diffusers'."""
    number = 1
    for level in range(5):
        for each in range(4):
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{each}"
            if level > 1:
                yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{each}"
            number += 1
        if level < 4:
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
            number += 1
    yield from (("middle_block.0", "mid_block.resnets.0"), ("middle_block.1", "mid_block.attentions.0"))
    yield "middle_block.2", "mid_block.resnets.1"
    for level in range(5):
        for each in range(5):
            at = f"output_blocks.{5 * level + each}"
            yield f"{at}.0", f"up_blocks.{level}.resnets.{each}"
            if level < 3:
                yield f"{at}.1", f"up_blocks.{level}.attentions.{each}"
        if level < 4:
            yield f"{at}.{2 if level < 3 else 1}", f"up_blocks.{level}.upsamplers.0"


def _main() -> None:
    print(terrain_checkpoint(Path(sys.argv[1])))


if __name__ == "__main__":
    _main()
