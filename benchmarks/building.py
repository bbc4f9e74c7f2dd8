"""Building against what it cannot do without: bytes read, time and peak memory, on checkpoints of real shapes.

    python benchmarks/building.py [--runs 5] [NAME …]

The checkpoints are written sparse into a temporary folder: headers and shapes are real, weights are random where they are
read and holes elsewhere. Every measurement is a process of its own, builds and floors in turn, so that the ratios mean
something on any machine. The floor: reading the bytes of the chosen layers, and LAPACK's `eigh` on every matrix, one layer
after another. Results go to benchmarks/results/building.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

from common import about, spread

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "building.json"
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
    "flux.1": ({"_class_name": "FluxTransformer2DModel"}, "transformer_blocks.0.*"),
}  # fmt: skip
"""Name → config, and the layers to build: of the larger ones some only, so that a run takes minutes."""
LIMITS = {"read": 1.05, "time": 1.3, "memory": 1.0}
"""What the ratios should stay below. Memory: over 4 × the largest layer's attention in float64 + 400 MB."""
RECIPES = ("output-value", "output-value:output")


def write(folder: Path, config: dict[str, Any], pattern: str) -> None:
    """A checkpoint of these shapes in float16: one sparse file, random where the build will read."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from making import write_sparse

    from eigenbank.builders.discovery.fake_weights import empty_model
    from eigenbank.builders.discovery.families import choose_layers, discover

    layers = choose_layers(discover(config).layers, [pattern])
    read = {part.tensor for layer in layers for part in layer.tensors.values()}
    shapes = {name: tuple(parameter.shape) for name, parameter in empty_model(config).named_parameters()}
    write_sparse(folder / "diffusion_pytorch_model.safetensors", shapes, read.__contains__)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "layers.jsonl").write_text("".join(f"{layer.model_dump_json()}\n" for layer in layers))


def peak_bytes() -> int:
    """Most memory this process has held. Not `ru_maxrss`, which a child inherits from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def measure_build(folder: Path, pattern: str) -> dict[str, Any]:
    """Discovery and build of a checkpoint, in this process. `build_s`: reading and solving, from the first layer on."""
    from eigenbank.builders.build import build
    from eigenbank.builders.checkpoints.folder import open_folder

    source = open_folder(folder)
    at: list[float] = [time.perf_counter()]
    bank = build(
        source, "bench/model", layers=[pattern], recipes=RECIPES, top_k=16,
        progress=lambda _what, _done, _total: at.append(time.perf_counter()),
    )  # fmt: skip
    largest = max(
        sum(8 * prod(source.shape(part.tensor) or ()) for role, part in layer.tensors.items() if "norm" not in role)
        for layer in bank.layers.values()
    )
    return {
        "build_s": at[-1] - at[1], "discovery_s": at[1] - at[0], "bytes_read": source.bytes_read,
        "bytes_needed": sum(source.size(layer.tensors.values()) for layer in bank.layers.values()),
        "peak_bytes": peak_bytes(), "largest_layer_bytes": largest, "layers": len(bank.layers),
        "widths": sorted({layer.width for layer in bank.layers.values()}), "checkpoint_bytes": source.total,
    }  # fmt: skip


def measure_floor(folder: Path, _pattern: str) -> dict[str, Any]:
    """Reading the same bytes and LAPACK on the same matrices."""
    import torch

    from eigenbank.builders.build import read_weights
    from eigenbank.builders.checkpoints.folder import open_folder
    from eigenbank.registry.recipes import gram
    from eigenbank.schemas import Layer, Recipe

    source = open_folder(folder)
    layers = [Layer.model_validate_json(line) for line in (folder / "layers.jsonl").read_text().splitlines()]
    begun = time.perf_counter()
    for layer in layers:
        weights = {role: tensor.double() for role, tensor in read_weights(source, layer).items()}
        for slug in RECIPES:
            torch.linalg.eigh(gram(Recipe.parse(slug), weights, layer))
    return {"floor_s": time.perf_counter() - begun}


def run(name: str, runs: int) -> dict[str, Any]:
    """All that is measured of one checkpoint: floors and builds in turn, each in a fresh process."""
    config, pattern = SHAPES[name]
    seen: dict[str, list[dict[str, Any]]] = {"floor": [], "build": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        subprocess.run([sys.executable, __file__, name, "--child", "write", str(folder)], check=True)
        for _ in range(runs):
            for what, kept in seen.items():
                command = [sys.executable, __file__, name, "--child", what, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                kept.append(json.loads(done.stdout.splitlines()[-1]))
    builds, floors = seen["build"], seen["floor"]
    last = builds[-1]
    limit = 4 * last["largest_layer_bytes"] + 400e6
    return {
        "config": config, "pattern": pattern, "layers": last["layers"], "widths": last["widths"],
        "checkpoint_bytes": last["checkpoint_bytes"], "bytes_read": last["bytes_read"],
        "build_s": spread([b["build_s"] for b in builds]), "floor_s": spread([f["floor_s"] for f in floors]),
        "discovery_s": spread([b["discovery_s"] for b in builds]), "peak_bytes": spread([b["peak_bytes"] for b in builds]),
        "memory_limit_bytes": limit,
        "ratios": {
            "read": spread([b["bytes_read"] / b["bytes_needed"] for b in builds]),
            "time": spread([b["build_s"] / f["floor_s"] for b, f in zip(builds, floors, strict=True)]),
            "memory": spread([b["peak_bytes"] / limit for b in builds]),
        },
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown table: medians, with least and most of the ratios."""
    lines = [
        "| checkpoint | layers | build | floor | time ratio (≤ 1.3) | bytes read (≤ 1.05) | peak memory | of its limit (≤ 1) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        ratio = {key: "{median:.2f} ({min:.2f} to {max:.2f})".format(**row["ratios"][key]) for key in LIMITS}
        missed = {key: " **missed**" if row["ratios"][key]["median"] > most else "" for key, most in LIMITS.items()}
        lines.append(
            f"| {name}, {row['checkpoint_bytes'] / 1e9:.1f} GB | {row['layers']} of width {', '.join(map(str, row['widths']))} | "
            f"{row['build_s']['median']:.2f} s | {row['floor_s']['median']:.2f} s | {ratio['time']}{missed['time']} | "
            f"{row['ratios']['read']['median']:.3f}{missed['read']} | {row['peak_bytes']['median'] / 1e6:.0f} MB | "
            f"{ratio['memory']}{missed['memory']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all, or the named checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, folder = args.child
        config, pattern = SHAPES[args.names[0]]
        if what == "write":
            write(Path(folder), config, pattern)
        else:
            measure = measure_build if what == "build" else measure_floor
            print(json.dumps(measure(Path(folder), pattern)))
        return
    import torch

    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in args.names or SHAPES:
        kept[name] = run(name, args.runs) | {"threads": torch.get_num_threads(), **about()}
        RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        print(table({name: kept[name]}).splitlines()[-1], flush=True)
    print(table({name: kept[name] for name in SHAPES if name in kept}))


if __name__ == "__main__":
    main()
