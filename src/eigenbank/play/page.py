"""The page: Gradio's controls, their layout, and what they do with a `Playground`."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from eigenbank.play.model import LoadedModel, SliderRange
from eigenbank.play.playground import ImagePair, Playground, Session
from eigenbank.play.request import (
    DRAGGING,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIDE,
    MAX_SLIDERS,
    MAX_STEPS,
    STEPS,
    ImageRequest,
    as_command,
    as_json,
    as_python,
    parse_request,
    parse_sliders,
)
from eigenbank.schemas import SliderSetting
from eigenbank.schemas.errors import EigenbankError, SteerError, UnknownNameError

MAX_SAMPLING = 4
"""How many requests for images are worked on at once: one samples, the others wait until their tab asks for newer ones."""
MAX_NAMES = 400
"""How many names the list for a new slider shows; others can be typed."""
PIXELATED = 160
"""Images up to this side are shown with visible pixels, not smoothed."""
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
HEADING = """<h1>eigenbank playground</h1>
<p>Each slider adds one eigenvector of the model's own self-attention weights while it samples. No training was needed.</p>"""


def build_page(playground: Playground, first: str) -> gr.Blocks:
    """Build the page, which opens with the model `first`."""
    with gr.Blocks(title="eigenbank playground", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        PlayPage(playground, Layout(list(playground.models), first), blocks)
    return blocks


def _text_box(visible: bool, value: str | None) -> gr.Textbox:
    """The change of a text box: with that value, or the one it has where it is None."""
    return gr.Textbox(visible=visible) if value is None else gr.Textbox(visible=visible, value=value)


class PlayPage:
    """What the page's controls do."""

    def __init__(self, playground: Playground, layout: "Layout", blocks: gr.Blocks) -> None:
        self.playground = playground
        self.layout = at = layout
        named = [at.model, at.seed, at.steps, at.sampler, *at.prompting, at.dragging]
        self._names = [str(each.elem_id) for each in named]
        self._controls = [at.session, *named, *at.sliders]
        self._images = [at.photo, at.unedited, at.edited, at.status]
        self._slider_outputs = [at.session, *at.rows, *at.sliders]
        self._connect(blocks)

    def _connect(self, blocks: gr.Blocks) -> None:
        at = self.layout
        slow = {"concurrency_limit": MAX_SAMPLING, "concurrency_id": "sampling", "api_visibility": "private"}
        quick = {
            "concurrency_limit": 2 * MAX_SAMPLING,
            "concurrency_id": "quick",
            "api_visibility": "private",
            "show_progress": "hidden",
        }
        latest = {"trigger_mode": "always_last"}
        # `parse_request` checks every value and words what is wrong with it, which Gradio's own checks do not.
        slow["preprocess"] = False
        files = dict(quick)
        quick["preprocess"] = False
        everything = [*self._images, at.python, at.command, at.json]

        def then_sample(event: Any) -> None:
            sampled = event.then(self.sample, self._controls, everything, show_progress_on=[at.status], **slow)
            sampled.then(self.prepare, self._controls, None, show_progress="hidden", **slow)

        opened = [*self._slider_outputs, at.sampler, at.name, *at.prompting, at.status]
        for event in (blocks.load, at.model.input):
            then_sample(event(self.open, [at.session, at.model], opened, show_progress="hidden", **slow))
        gr.on(
            [each.input for each in at.sliders],
            self.preview, self._controls, self._images, show_progress="hidden", **latest, **slow,
        )  # fmt: skip
        others = [at.seed.change, at.steps.release, at.sampler.input, at.prompt.submit, at.guidance.release]
        others += [at.negative.submit, at.width.submit, at.height.submit]
        sampled = gr.on(
            [*(each.release for each in at.sliders), *others],
            self.sample, self._controls, everything, show_progress_on=[at.status], **latest, **slow,
        )  # fmt: skip
        sampled.then(self.prepare, self._controls, None, show_progress="hidden", **slow)
        then_sample(at.reset.click(self.reset, None, at.sliders, **quick))
        name_and_sliders = [at.session, at.model, at.name, *at.sliders]
        then_sample(
            at.add.click(self.add_slider, name_and_sliders, [*self._slider_outputs, at.name, at.add_note], **quick)
        )
        clicks = [each.click for each in at.removers]
        removed = [*self._slider_outputs, at.add_note]
        then_sample(gr.on(clicks, self.remove_slider, [at.session, at.model, *at.sliders], removed, **quick))
        uploaded = [at.photo_note, at.upload]
        then_sample(at.upload.upload(self.read_photo, [at.session, at.upload], uploaded, **files))
        then_sample(at.upload.clear(self.drop_photo, [at.session], [at.photo_note], **quick))
        loaded = [*self._slider_outputs, at.json_note]
        then_sample(at.load.upload(self.read_sliders, [at.session, at.model, at.load], loaded, **files))

    # Sampling

    def sample(self, session: Session | None, *values: Any) -> list[Any]:
        """Sample the full run: images, and code for them."""
        try:
            session = check_session(session)
            request, _ = self._request(session, values)
            pair = self.playground.sample(session, request)
            if pair is None:
                return [gr.skip()] * 7
            model = self.playground.model(request.model)
            code = [as_python(model, request), as_command(model, request), as_json(request)]
        except EigenbankError as error:
            return [*self._problem(error), *[gr.skip()] * 3]
        return [*self._show(pair, request), *code]

    def preview(self, session: Session | None, *values: Any) -> list[Any]:
        """Sample the images for a slider that is being dragged."""
        try:
            session = check_session(session)
            request, dragging = self._request(session, values)
            pair = self.playground.sample(session, request, dragging=dragging)
        except EigenbankError as error:
            return self._problem(error)
        return [gr.skip()] * 4 if pair is None else self._show(pair, request)

    def prepare(self, session: Session | None, *values: Any) -> None:
        """Sample ahead for the next move. Errors were shown already."""
        try:
            session = check_session(session)
            request, dragging = self._request(session, values)
            self.playground.prepare(session, request, dragging)
        except EigenbankError:
            return

    def _request(self, session: Session, values: Sequence[Any]) -> tuple[ImageRequest, int]:
        """Return what the controls ask for, and the steps while dragging. Raises SteerError."""
        named = dict(zip(self._names, values, strict=False))
        dragging = named.pop("dragging")
        photo = None if session.photo is None else session.photo.digest
        sliders = parse_sliders(session.sliders, session.ranges, values[len(self._names) :])
        found = parse_request(**named, sliders=sliders, photo=photo)
        return found, parse_request(model=found.model, steps=dragging).steps

    def _show(self, pair: ImagePair, request: ImageRequest) -> list[Any]:
        classes = ["picture", "pixels"] if max(pair.edited.size) <= PIXELATED else ["picture"]
        moved = "; ".join(f"{each.key} {each.scale:+g}" for each in request.moved) or "no slider is moved"
        images = [
            gr.Image(value=pair.photo, visible=pair.photo is not None, elem_classes=classes),
            gr.Image(value=pair.unedited, elem_classes=classes),
            gr.Image(value=pair.edited, elem_classes=classes, alt_text=f"edited picture: {moved}"),
        ]
        return [*images, self._status(pair)]

    def _status(self, pair: ImagePair) -> str:
        parts = [f"{pair.steps} step{'s' * (pair.steps != 1)}"]
        parts += ["while dragging"] if not pair.full else []
        parts += [f"{pair.seconds:.2f} s" if pair.seconds else "cached"]
        if pair.error is not None:
            parts += [f"reconstruction error {pair.error:.3f}"]
        warning = note(pair.warning, problem=True) if pair.warning and pair.full else ""
        return note(" · ".join(parts)) + warning

    def _problem(self, error: Exception) -> list[Any]:
        return [*[gr.skip()] * 3, note(str(error), problem=True)]

    # Sliders

    def open(self, session: Session | None, model_id: str) -> list[Any]:
        """Show a model: its sliders, samplers and names."""
        session = session or Session()
        try:
            model = self.playground.model(str(model_id))
        except EigenbankError as error:
            return [session, *[gr.skip()] * (2 * MAX_SLIDERS + 7), note(str(error), problem=True)]
        samplers, reads, drawing = list(model.samplers), model.takes_prompt, model.drawing
        height, width = drawing.size or (0, 0)
        return [
            *self._show_sliders(session, model, model.first_sliders()),
            gr.Dropdown(choices=samplers, value=samplers[0]),
            gr.Dropdown(choices=model.names[:MAX_NAMES], value=None),
            _text_box(reads, drawing.prompts[0] if reads and drawing.prompts else None),
            _text_box(reads, drawing.negative_prompt),
            gr.Slider(visible=reads, value=model.guidance),
            gr.Number(visible=reads, value=width),
            gr.Number(visible=reads, value=height),
            "",
        ]

    def reset(self) -> list[float]:
        """Set all sliders to zero."""
        return [0.0] * MAX_SLIDERS

    def add_slider(self, session: Session | None, model_id: str, name: str | None, *values: float) -> list[Any]:
        """Add a slider for a label or an id."""
        try:
            session = check_session(session)
            if not name or not str(name).strip():
                message = "name a label or a direction's id: the list shows matches as you type"
                raise SteerError(message)
            model = self.playground.model(str(model_id))
            key, said = _named(model, str(name).strip())
            present = parse_sliders(session.sliders, session.ranges, values)
            if key in [each.key for each in present]:
                message = f"{key!r} has a slider already"
                raise SteerError(message)
            if len(present) >= MAX_SLIDERS:
                message = f"the page has room for {MAX_SLIDERS} sliders: remove one first"
                raise SteerError(message)
            shown = self._show_sliders(session, model, [*present, SliderSetting(key=key, scale=0.0)])
        except EigenbankError as error:
            return [*[gr.skip()] * (2 + 2 * MAX_SLIDERS), note(str(error), problem=True)]
        return [*shown, gr.Dropdown(value=None), note(said)]

    def remove_slider(self, event: gr.EventData, session: Session | None, model_id: str, *values: float) -> list[Any]:
        """Remove a slider."""
        number = next(index for index, each in enumerate(self.layout.removers) if each is event.target)
        try:
            session = check_session(session)
            present = parse_sliders(session.sliders, session.ranges, values)
            rest = [*present[:number], *present[number + 1 :]]
            shown = self._show_sliders(session, self.playground.model(str(model_id)), rest)
        except EigenbankError as error:
            return [*[gr.skip()] * (1 + 2 * MAX_SLIDERS), note(str(error), problem=True)]
        return [*shown, ""]

    def read_sliders(self, session: Session | None, model_id: str, path: str) -> list[Any]:
        """Replace the sliders by those of a file."""
        try:
            session, model = check_session(session), self.playground.model(model_id)
            found = model.read_sliders(Path(path))
            shown = self._show_sliders(session, model, found)
        except EigenbankError as error:
            return [*[gr.skip()] * (1 + 2 * MAX_SLIDERS), note(without_path(error, path), problem=True)]
        return [*shown, note(f"loaded {len(found)} slider{'s' * (len(found) != 1)} from the file")]

    def _show_sliders(self, session: Session, model: LoadedModel, wanted: Sequence[SliderSetting]) -> list[Any]:
        """Values for session, rows and slots that make these the page's sliders."""
        shown = [show_slider(model.slider_range(each.key), each) for each in wanted]
        session.sliders = tuple(wanted)
        session.ranges = tuple((each.minimum, each.maximum) for each in shown)
        rows = [gr.Row(visible=number < len(wanted)) for number in range(MAX_SLIDERS)]
        return [session, *rows, *shown, *[gr.skip()] * (MAX_SLIDERS - len(wanted))]

    # Photos

    def read_photo(self, session: Session | None, path: str) -> list[Any]:
        """Take an uploaded photo, or say what is wrong with it."""
        try:
            session = check_session(session)
            session.photo = None
            photo = self.playground.read_photo(session, Path(path))
        except EigenbankError as error:
            return [note(without_path(error, path), problem=True), None]
        return [note("; ".join(["images start from this photo, inverted to noise", *photo.notes])), gr.skip()]

    def drop_photo(self, session: Session | None) -> str:
        """Return to images from random noise."""
        if session is not None:
            session.photo = None
        return ""


def _named(model: LoadedModel, name: str) -> tuple[str, str]:
    """Return the key of the slider for a name, and what to say: for words that nothing is called the nearest direction's.

    Raises UnknownNameError where there is no telling what is near.
    """
    try:
        key = model.slider_range(name).key
    except UnknownNameError:
        near = model.nearest(name)
        if near is None:
            raise
        side = "its positive side" if near.effect > 0 else "its negative side"
        text = (
            f"nothing is called {name!r}; nearest, by what an image-text model saw, comes {side} of {near.direction.id}"
        )
        return (
            near.direction.id,
            f"{text} ({abs(near.effect):.2f} a unit, purity {near.purity:.2f}). eigenbank find confirms it",
        )
    return key, f"added a slider for {key}"


def check_session(session: Session | None) -> Session:
    """Return a tab's session. Raises SteerError where the server has dropped it for newer ones."""
    if session is None:
        message = "the server no longer has this page's state: reload the page"
        raise SteerError(message)
    return session


def show_slider(found: SliderRange, slider: SliderSetting) -> gr.Slider:
    """Show a slider in a slot, its range widened to include its value."""
    low, high = min(found.low, slider.scale), max(found.high, slider.scale)
    kind = "recommended" if found.measured else "default range"
    extra = [f"{name} {value}" for name, value in slider.model_dump(include={"guidance", "site"}).items() if value]
    extra += [f"window {slider.window.start:g} to {slider.window.end:g}"] if slider.window is not None else []
    info = " · ".join([f"{kind} {found.low:g} to {found.high:g}".replace("-", "−"), *extra])
    return gr.Slider(minimum=low, maximum=high, value=slider.scale, label=found.key, info=html.escape(info))


def without_path(error: Exception, path: str) -> str:
    """Return an error's message without the path where the server keeps an uploaded file."""
    return str(error).replace(repr(path), "it").replace(path, "the file")


def note(text: str, *, problem: bool = False) -> str:
    """Return a line of text under a control, escaped."""
    return f'<p class="note{" problem" * problem}" role="{"alert" if problem else "status"}">{html.escape(text)}</p>'


def theme() -> gr.themes.Base:
    """Return the visitor's own fonts: nothing is downloaded."""
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


class Layout:
    """The page's controls; create it within a `gr.Blocks`. All slots for sliders exist from the start, hidden."""

    def __init__(self, models: Sequence[str], first: str) -> None:
        self.session = gr.State(None)
        gr.HTML(HEADING, elem_id="heading", padding=False)
        with gr.Row(elem_id="page"):
            with gr.Column(scale=6, min_width=320):
                self._pictures()
                self._sampling()
                self._code()
            with gr.Column(scale=5, min_width=320):
                self.model = gr.Dropdown(list(models), value=first, label="Model", elem_id="model")
                self._sliders()
                self._photo()

    def _pictures(self) -> None:
        with gr.Row(elem_id="pictures", equal_height=True):
            self.photo = _picture("photo", visible=False)
            self.unedited = _picture("unedited")
            self.edited = _picture("edited")
        self.status = gr.HTML(elem_id="status", padding=False, min_height=24)

    def _sampling(self) -> None:
        steps: dict[str, Any] = {"minimum": 1, "maximum": MAX_STEPS, "step": 1, "buttons": []}
        with gr.Group(elem_id="sampling"):
            with gr.Row():
                self.seed = gr.Number(
                    0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed", min_width=110
                )
                self.sampler = gr.Dropdown([], label="Sampler", elem_id="sampler", min_width=150)
            with gr.Row():
                self.steps = gr.Slider(value=STEPS, label="Steps", elem_id="steps", **steps)
                self.dragging = gr.Slider(value=DRAGGING, label="Steps while dragging", elem_id="dragging", **steps)
            self.prompt = gr.Textbox("", label="Prompt", max_length=MAX_PROMPT, visible=False, elem_id="prompt")
            self.negative = gr.Textbox(
                "", label="Negative prompt", max_length=MAX_PROMPT, visible=False, elem_id="negative_prompt"
            )
            self.guidance = gr.Slider(0, 20, 1, step=0.5, label="Guidance", visible=False, elem_id="guidance")
            with gr.Row():
                side = {
                    "precision": 0,
                    "minimum": 0,
                    "maximum": MAX_SIDE,
                    "step": 8,
                    "visible": False,
                    "min_width": 110,
                }
                self.width = gr.Number(0, label="Width (0: the model's)", elem_id="width", **side)
                self.height = gr.Number(0, label="Height (0: the model's)", elem_id="height", **side)
            self.prompting = [self.prompt, self.negative, self.guidance, self.width, self.height]

    def _code(self) -> None:
        shown: dict[str, Any] = {
            "interactive": False, "show_label": False, "wrap_lines": True, "lines": 6, "max_lines": 12
        }  # fmt: skip
        with gr.Accordion("Use this edit elsewhere", elem_id="code"):
            with gr.Tab("Python"):
                self.python = gr.Code(language="python", elem_id="python", **shown)
            with gr.Tab("Command line"):
                self.command = gr.Code(language="shell", elem_id="command", **shown)
            with gr.Tab("Sliders (JSON)"):
                self.json = gr.Code(language="json", elem_id="json", **shown)
                self.load = gr.UploadButton("Load sliders from a file", size="sm", type="filepath", elem_id="load")
                self.json_note = gr.HTML(elem_id="json-note", padding=False)

    def _sliders(self) -> None:
        self.rows: list[gr.Row] = []
        self.sliders: list[gr.Slider] = []
        self.removers: list[gr.Button] = []
        with gr.Column(elem_id="sliders"):
            for number in range(MAX_SLIDERS):
                with gr.Row(visible=False, elem_classes="slider-row") as row:
                    slider = gr.Slider(
                        -1, 1, 0, step=0.05, label="-", interactive=True, elem_id=f"slider-{number}", scale=8, buttons=[]
                    )  # fmt: skip
                    remove = gr.Button("✕", size="sm", scale=0, min_width=30, elem_id=f"remove-{number}")
                self.rows.append(row)
                self.sliders.append(slider)
                self.removers.append(remove)
        self.reset = gr.Button("Reset all to zero", size="sm", elem_id="reset")
        with gr.Row(elem_id="adding"):
            self.name = gr.Dropdown(
                [], value=None, label="Add a direction by label or id", allow_custom_value=True, elem_id="name", scale=5
            )
            self.add = gr.Button("Add", scale=0, min_width=80, size="sm", elem_id="add")
        self.add_note = gr.HTML(elem_id="add-note", padding=False)

    def _photo(self) -> None:
        with gr.Accordion("Edit a photo", open=False, elem_id="photo-box"):
            self.upload = gr.File(
                label="JPEG, PNG, WebP, BMP or TIFF; cropped to its middle",
                type="filepath",
                height=110,
                elem_id="upload",
            )
            self.photo_note = gr.HTML(elem_id="photo-note", padding=False)


def _picture(name: str, *, visible: bool = True) -> gr.Image:
    return gr.Image(
        label=name,
        alt_text=f"{name} picture",
        format="png",
        interactive=False,
        visible=visible,
        min_width=120,
        buttons=["download", "fullscreen"],
        elem_id=f"picture-{name}",
        elem_classes="picture",
    )
