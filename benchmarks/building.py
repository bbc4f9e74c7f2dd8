"""What a build reads, takes and holds, on checkpoints of real shapes: `python benchmarks/building.py [NAME…]`.

The checkpoints are written with the real classes' tensor names and shapes, attention weights random, everything else a
hole in the file: a FLUX.1 of 24 GB takes the disk space of its attention. Every build runs in a process of its own, and
so does the floor it is measured against: reading the same bytes, and LAPACK's full `eigh` on the same matrices. Both in one
run of this command, so that the ratios mean something on any machine. Results go to benchmarks/results/building.json.
"""

import argparse
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "building.json"
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "sd1.5": ({"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768}, "*"),
    "sdxl": (
        {
            "_class_name": "UNet2DConditionModel", "cross_attention_dim": 2048, "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "mid_block.*",
    ),
    "flux.1": ({"_class_name": "FluxTransformer2DModel"}, "single_transformer_blocks.[01].*"),
}  # fmt: skip
"""Name → config, and the layers to build."""


def write(folder: Path, config: dict[str, Any], pattern: str) -> None:
    """A checkpoint of these shapes in float16: one sparse file, random where the build will read."""
    import torch

    from eigenbank.builders.denoisers import empty_model
    from eigenbank.builders.families import discover
    from eigenbank.builders.layers import choose_layers

    layers = choose_layers(discover(config).layers, [pattern])
    read = {part.tensor for layer in layers for part in layer.tensors.values()}
    header: dict[str, Any] = {}
    at = 0
    for name, parameter in empty_model(config).named_parameters():
        size = 2 * prod(parameter.shape)
        header[name] = {"dtype": "F16", "shape": list(parameter.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
        for number, name in enumerate(sorted(read)):
            made = torch.randn(header[name]["shape"], generator=torch.Generator().manual_seed(number))
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write((made * made.shape[-1] ** -0.5).half().numpy().tobytes())


def peak_bytes() -> int:
    """Most memory this process has held. Not `ru_maxrss`, which a child inherits from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def measure_build(folder: Path, pattern: str) -> dict[str, Any]:
    """Discovery and build of a checkpoint, in this process."""
    import torch

    from eigenbank.builders.build import build
    from eigenbank.builders.families import discover
    from eigenbank.builders.sources import open_folder

    source = open_folder(folder)
    begun = time.perf_counter()
    discover(source.config)
    found = time.perf_counter()
    bank = build(source, "bench/model", layers=[pattern], top_k=16)
    done = time.perf_counter()
    largest = max(
        sum(8 * prod(source.shape(part.tensor) or ()) for role, part in layer.tensors.items() if "norm" not in role)
        for layer in bank.layers.values()
    )
    needed = sum(source.size(layer.tensors.values()) for layer in bank.layers.values())
    return {
        "layers": len(bank.layers), "discovery_s": found - begun, "build_s": done - found - (found - begun),
        "bytes_read": source.bytes_read, "bytes_needed": needed, "largest_layer_bytes": largest, "peak_bytes": peak_bytes(),
        "checkpoint_bytes": source.total, "threads": torch.get_num_threads(),
    }  # fmt: skip


def measure_floor(folder: Path, pattern: str) -> dict[str, Any]:
    """Reading the same bytes and LAPACK on the same matrices, and what importing torch and diffusers alone takes."""
    import torch

    from eigenbank.builders.build import read_weights
    from eigenbank.builders.layers import choose_layers, find_layers
    from eigenbank.builders.sources import open_folder
    from eigenbank.registry.recipes import gram
    from eigenbank.schemas import Recipe

    source = open_folder(folder)
    layers = choose_layers(find_layers(source).layers, [pattern])
    base = peak_bytes()
    begun = time.perf_counter()
    for layer in layers:
        weights = {role: tensor.double() for role, tensor in read_weights(source, layer).items()}
        for slug in ("output-value", "output-value:output"):
            torch.linalg.eigh(gram(Recipe.parse(slug), weights, layer))
    return {"floor_s": time.perf_counter() - begun, "imports_and_discovery_bytes": base}


def main() -> None:
    """Measure all, or the named checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, folder = args.child
        pattern = SHAPES[args.names[0]][1]
        measure = measure_build if what == "build" else measure_floor
        print(json.dumps(measure(Path(folder), pattern)))
        return
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in args.names or SHAPES:
        _, pattern = SHAPES[name]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            subprocess.run(
                [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import building, pathlib; "
                 f"building.write(pathlib.Path({str(folder)!r}), *building.SHAPES[{name!r}])"], check=True,
            )  # fmt: skip
            row: dict[str, Any] = {"pattern": pattern}
            for what in ("floor", "build"):
                command = [sys.executable, __file__, name, "--child", what, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row |= json.loads(done.stdout.splitlines()[-1])
        row["time_ratio"] = row["build_s"] / row["floor_s"]
        row["read_ratio"] = row["bytes_read"] / row["bytes_needed"]
        row["memory_ratio"] = row["peak_bytes"] / (4 * row["largest_layer_bytes"] + 400e6)
        row["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        kept[name] = row
        print(
            f"{name}: {row['layers']} layers ({pattern}) of a checkpoint of {row['checkpoint_bytes'] / 1e9:.1f} GB; read "
            f"{row['read_ratio']:.3f} × its bytes; {row['time_ratio']:.2f} × the floor's time; peak {row['peak_bytes'] / 1e6:.0f} MB, "
            f"{row['memory_ratio']:.2f} × the limit; discovery {row['discovery_s']:.1f} s"
        )
        RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
