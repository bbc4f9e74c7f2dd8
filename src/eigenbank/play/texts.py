"""A scene as something to take along: a file of sliders, a command line, lines of Python that draw the same picture."""

import shlex

from eigenbank.play.scene import Scene
from eigenbank.play.studio import Studio
from eigenbank.schemas import Sliders

FILE = "sliders.json"


def python(studio: Studio, scene: Scene) -> str:
    """Python that draws the edited picture of a scene, and nothing else."""
    call = [f"{name}={value!r}" for name, value in studio.call(scene).items()]
    opened = f"pipe = eb.open_pipeline({scene.model!r})"
    if scene.photo is not None:
        given = ", ".join(["pipe", '"photo.png"', _edit(scene), f"steps={scene.steps}", *call])
        saved = 'found.image.save("edited.png")' if scene.moved else 'found.save("edited.png")'
        drawn = f"found = eb.edit({given})" if scene.moved else "# no slider is moved: nothing to edit"
        return "\n".join(["import eigenbank as eb", "", opened, drawn, *([saved] if scene.moved else [])]) + "\n"
    sampler = studio.samplers.get(scene.sampler)
    made = () if sampler is None else sampler.lines
    imports = ["import torch", *[line for line in made if line.startswith("import ")]]
    lines = [*sorted(imports), "", "import eigenbank as eb", "", opened]
    lines += [line for line in made if not line.startswith("import ")]
    call += [f"num_inference_steps={scene.steps}", f"generator=torch.Generator().manual_seed({scene.seed})"]
    drawn = f"image = pipe({', '.join(call)}).images[0]"
    if scene.moved:
        lines += [f"with eb.steer(pipe, {_edit(scene)}, bank=eb.load({scene.model!r})):", f"    {drawn}"]
    else:
        lines += [drawn]
    return "\n".join([*lines, 'image.save("edited.png")']) + "\n"


def command(studio: Studio, scene: Scene) -> str:
    """The command line that draws the same, where there is one; else why there is none."""
    if not scene.moved:
        return "# no slider is moved: nothing to edit\n"
    edit = f"--sliders {FILE}"
    if _plain(scene):
        edit = " ".join(f"--set {shlex.quote(f'{each.key}={each.scale!r}')}" for each in scene.moved)
    model = shlex.quote(scene.model)
    if scene.photo is not None:
        prompt = f" --prompt {shlex.quote(scene.prompt)} --guidance {scene.guidance!r}" if studio.prompted else ""
        return f"eigenbank edit photo.png --model {model} {edit}{prompt} --steps {scene.steps} --out edited.png\n"
    if studio.prompted or scene.sampler not in ("", next(iter(studio.samplers))):
        return (
            "# the command line draws without prompts and with the model's own sampler: use Python for this picture\n"
        )
    return f"eigenbank steer {model} {edit} --seeds {scene.seed} --steps {scene.steps} --out steered.png\n"


def sliders(scene: Scene) -> str:
    """The sliders of a scene as JSON, for `steer`, the command line, and the page again."""
    if not scene.sliders:
        return "{}\n"
    return Sliders(model=scene.model, sliders=scene.sliders).model_dump_json(indent=2, exclude_none=True) + "\n"


def _plain(scene: Scene) -> bool:
    """Whether the edit can be said as names and scales."""
    return all(
        each.window is None and each.guidance is None and each.site is None and each.key.strip() == each.key != "-"
        for each in scene.moved
    )


def _edit(scene: Scene) -> str:
    if not _plain(scene):
        return repr(FILE)
    return "{" + ", ".join(f"{each.key!r}: {each.scale!r}" for each in scene.moved) + "}"
