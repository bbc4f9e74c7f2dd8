"""Draw ComfyUI workflows, as PNG files that carry them: dropped onto ComfyUI, such a picture opens the workflow.

    python docs/tools/workflows.py comfyui/example_workflows

The nodes, their sockets, values and links are drawn as the JSON places them, in ComfyUI's manner; this is not a screenshot.
"""

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

MARGIN, TITLE, ROW = 40, 26, 20
GROUND, NODE, OURS, HEAD, TEXT, VALUE = "#202124", "#353535", "#2d4a43", "#272727", "#dddddd", "#9db4c0"
WIRES = {
    "MODEL": "#b39ddb", "EIGENBANK": "#4db6ac", "CLIP": "#ffd500", "VAE": "#ff6e6e", "CONDITIONING": "#ffa931",
    "LATENT": "#ff9cf9", "IMAGE": "#64b5f6", "MASK": "#81c784", "STRING": "#7f9f7f",
}  # fmt: skip
Node = dict[str, Any]
Point = tuple[float, float]


def draw(workflow: dict[str, Any]) -> Image.Image:
    """The workflow as a picture."""
    nodes: list[Node] = workflow["nodes"]
    left = min(node["pos"][0] for node in nodes) - MARGIN
    top = min(node["pos"][1] for node in nodes) - TITLE - MARGIN
    right = max(node["pos"][0] + node["size"][0] for node in nodes) + MARGIN
    bottom = max(node["pos"][1] + _height(node) for node in nodes) + MARGIN
    picture = Image.new("RGB", (int(right - left), int(bottom - top)), GROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    by_number = {node["id"]: node for node in nodes}

    def at(node: Node, side: str, slot: int) -> Point:
        x = node["pos"][0] + (node["size"][0] if side == "outputs" else 0)
        return x - left, node["pos"][1] + ROW * (slot + 0.7) - top

    for _, source, output, target, entry, kind in workflow["links"]:
        start, end = at(by_number[source], "outputs", output), at(by_number[target], "inputs", entry)
        pen.line(_curve(start, end), fill=WIRES.get(kind, TEXT), width=3, joint="curve")
    for node in nodes:
        x, y, width = node["pos"][0] - left, node["pos"][1] - top, node["size"][0]
        ours = node["type"].startswith("Eigenbank")
        pen.rounded_rectangle((x, y - TITLE, x + width, y + _height(node)), 8, fill=OURS if ours else NODE)
        pen.rounded_rectangle((x, y - TITLE, x + width, y), 8, fill=HEAD)
        pen.text((x + 10, y - TITLE + 5), node["type"], fill=TEXT, font=font)
        for side in ("inputs", "outputs"):
            for slot, socket in enumerate(node[side]):
                dot = at(node, side, slot)
                pen.circle(dot, 5, fill=WIRES.get(socket["type"], TEXT))
                where = (dot[0] + 10, dot[1] - 8) if side == "inputs" else (dot[0] - 10, dot[1] - 8)
                pen.text(where, socket["name"], fill=TEXT, font=font, anchor="la" if side == "inputs" else "ra")
        first = y + ROW * _sockets(node) + 6
        for row, value in enumerate(node["widgets_values"]):
            line = first + ROW * row
            pen.rounded_rectangle((x + 10, line, x + width - 10, line + ROW - 3), 7, fill=HEAD)
            pen.text((x + width / 2, line + 1), str(value)[:42], fill=VALUE, font=font, anchor="ma")
    return picture


def _sockets(node: Node) -> int:
    return max(len(node["inputs"]), len(node["outputs"]))


def _height(node: Node) -> int:
    return ROW * (_sockets(node) + len(node["widgets_values"])) + 14


def _curve(start: Point, end: Point, pieces: int = 24) -> list[Point]:
    """A wire from a socket to another, as a cubic curve that leaves and arrives level."""
    pull = max(30.0, abs(end[0] - start[0]) / 2)
    corners = (start, (start[0] + pull, start[1]), (end[0] - pull, end[1]), end)
    points = []
    for piece in range(pieces + 1):
        t = piece / pieces
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        points.append(
            tuple(sum(w * corner[axis] for w, corner in zip(weights, corners, strict=True)) for axis in (0, 1))
        )
    return points  # type: ignore[return-value]  # pairs


def main() -> None:
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        text = path.read_text(encoding="utf-8")
        carried = PngInfo()
        carried.add_text("workflow", json.dumps(json.loads(text)))
        draw(json.loads(text)).quantize(64).save(path.with_suffix(".png"), pnginfo=carried, optimize=True)


if __name__ == "__main__":
    main()
