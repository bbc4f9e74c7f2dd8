"""A scene as something to take along: a file of sliders, a command line, lines of Python that draw the same picture."""

import json
import shlex
from pathlib import Path

from eigenbank.play.scene import Scene
from eigenbank.play.studio import Knob, Studio


def python(studio: Studio, scene: Scene) -> str:
    """Python that draws the edited picture of a scene, and nothing else."""
    edits = "{" + ", ".join(f"{key!r}: {scale!r}" for key, scale in scene.moved.items()) + "}"
    call = _call(studio, scene)
    lines = ["import eigenbank as eb", "", f"pipe = eb.open_pipeline({scene.model!r})"]
    if scene.photo is not None:
        given = "".join(f", {argument}" for argument in [f"steps={scene.steps}", *call])
        lines += [f'found = eb.edit(pipe, "photo.png", {edits}{given})', 'found.image.save("edited.png")']
        return "\n".join(lines) + "\n"
    made = studio.samplers[scene.sampler].lines if scene.sampler in studio.samplers else ()
    imports = ["import torch", *[line for line in made if line.startswith("import ")]]
    lines[:1] = sorted(imports, key=lambda line: line.split()[1]) + ["import eigenbank as eb"]
    lines += [line for line in made if not line.startswith("import ")]
    arguments = ", ".join(
        [*call, f"num_inference_steps={scene.steps}", f"generator=torch.Generator().manual_seed({scene.seed})"]
    )
    drawn = f"image = pipe({arguments}).images[0]"
    if scene.moved:
        lines += [f"with eb.steer(pipe, {edits}, bank=eb.load({scene.model!r})):", f"    {drawn}"]
    else:
        lines += [drawn]
    return "\n".join([*lines, 'image.save("edited.png")']) + "\n"


def command(studio: Studio, scene: Scene) -> str:
    """The command line that draws the same, where there is one; else why there is none."""
    if not scene.moved:
        return "# no slider is moved: nothing to edit\n"
    sets = " ".join(f"--set {shlex.quote(f'{key}={scale!r}')}" for key, scale in scene.moved.items())
    model = shlex.quote(scene.model)
    prompt = f" --prompt {shlex.quote(scene.prompt)} --guidance {scene.guidance!r}" if studio.prompted else ""
    if scene.photo is not None:
        return f"eigenbank edit photo.png --model {model} {sets}{prompt} --steps {scene.steps} --out edited.png\n"
    if studio.prompted or scene.sampler not in ("", next(iter(studio.samplers))):
        return "# the command line draws without prompts and with the model's own sampler: use Python for this picture\n"
    return f"eigenbank steer {model} {sets} --seeds {scene.seed} --steps {scene.steps} --out steered.png\n"


def sliders(scene: Scene) -> str:
    """The sliders of a scene as JSON, for `steer`, the command line, and this page again."""
    listed = [{"key": key, "scale": scale} for key, scale in scene.sliders]
    return json.dumps({"format": 1, "model": scene.model, "sliders": listed}, indent=2, ensure_ascii=False) + "\n"


def read_sliders(studio: Studio, path: Path) -> list[tuple[Knob, float]]:
    """The sliders of a file that `sliders` wrote, or `eigenbank steer`. Raises SteerError, UnknownNameError."""
    raise NotImplementedError


def _call(studio: Studio, scene: Scene) -> list[str]:
    return [f"{name}={value!r}" for name, value in studio.call(scene).items()]
