"""The page: Gradio's controls around a `Playground`. What the controls say becomes a `Scene`; nothing is decided here."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from eigenbank.play import texts
from eigenbank.play.layout import Layout
from eigenbank.play.playground import Playground, Session, Shown
from eigenbank.play.scene import MAX_SLIDERS, Scene, moved, scene
from eigenbank.play.studio import Knob, Studio
from eigenbank.schemas import Slider
from eigenbank.schemas.errors import EigenbankError, SteerError

WAITING = 4
"""Most requests that draw at once: one draws, the others wait, and give way to what their tab asks for next."""
NAMES = 400
"""Most names offered for a slider; others can be typed."""
SMALL = 160
"""Pictures up to this side are shown with their pixels as they are, not smoothed."""


def page(playground: Playground, first: str) -> gr.Blocks:
    """The page, ready to be served. `first` is the model it opens with."""
    with gr.Blocks(title="eigenbank playground", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        Page(playground, Layout(list(playground.models), first), blocks)
    return blocks


class Page:
    """What the controls do."""

    def __init__(self, playground: Playground, layout: Layout, blocks: gr.Blocks) -> None:
        self.playground = playground
        self.at = at = layout
        named = [at.model, at.seed, at.steps, at.sampler, at.prompt, at.guidance, at.dragging]
        self._names = [str(each.elem_id) for each in named]
        self._controls = [at.session, *named, *at.sliders]
        self._pictures = [at.photo, at.unedited, at.edited, at.status]
        self._board = [at.session, *at.rows, *at.sliders]
        self._connect(blocks)

    def _connect(self, blocks: gr.Blocks) -> None:
        at = self.at
        slow = {"concurrency_limit": WAITING, "concurrency_id": "drawing", "api_visibility": "private"}
        quick = {
            "concurrency_limit": 2 * WAITING,
            "concurrency_id": "quick",
            "api_visibility": "private",
            "show_progress": "hidden",
        }
        latest = {"trigger_mode": "always_last"}
        # What the controls say is checked in one place, `scene`, which has a word for everything; Gradio's own checks have not.
        slow["preprocess"] = False
        files = dict(quick)
        quick["preprocess"] = False
        everything = [*self._pictures, at.python, at.command, at.json]

        def then_draw(event: Any) -> None:
            drawn = event.then(self.draw, self._controls, everything, show_progress_on=[at.status], **slow)
            drawn.then(self.prepare, self._controls, None, show_progress="hidden", **slow)

        opened = [*self._board, at.sampler, at.name, at.prompt, at.guidance, at.status]
        for event in (blocks.load, at.model.input):
            then_draw(event(self.open, [at.session, at.model], opened, show_progress="hidden", **slow))
        gr.on(
            [each.input for each in at.sliders],
            self.preview, self._controls, self._pictures, show_progress="hidden", **latest, **slow,
        )  # fmt: skip
        others = [at.seed.change, at.steps.release, at.sampler.input, at.prompt.submit, at.guidance.release]
        drawn = gr.on(
            [*(each.release for each in at.sliders), *others],
            self.draw, self._controls, everything, show_progress_on=[at.status], **latest, **slow,
        )  # fmt: skip
        drawn.then(self.prepare, self._controls, None, show_progress="hidden", **slow)
        then_draw(at.reset.click(self.zero, None, at.sliders, **quick))
        asked = [at.session, at.model, at.name, *at.sliders]
        then_draw(at.add.click(self.added, asked, [*self._board, at.name, at.add_note], **quick))
        clicks = [each.click for each in at.removers]
        then_draw(
            gr.on(clicks, self.removed, [at.session, at.model, *at.sliders], [*self._board, at.add_note], **quick)
        )
        noted = [at.photo_note, at.upload]
        then_draw(at.upload.upload(self.read_photo, [at.session, at.upload], noted, **files))
        then_draw(at.upload.clear(self.drop_photo, [at.session], [at.photo_note], **quick))
        loaded = [*self._board, at.json_note]
        then_draw(at.load.upload(self.read_sliders, [at.session, at.model, at.load], loaded, **files))

    # What is drawn.

    def draw(self, session: Session | None, *values: Any) -> list[Any]:
        """The full run: pictures and texts to take along."""
        try:
            session = known(session)
            wanted, _ = self._scene(session, values)
            shown = self.playground.show(session, wanted)
            if shown is None:
                return [gr.skip()] * 7
            studio = self.playground.studio(wanted.model)
            notes = [texts.python(studio, wanted), texts.command(studio, wanted), texts.sliders(wanted)]
        except EigenbankError as error:
            return [*self._problem(error), *[gr.skip()] * 3]
        return [*self._shown(shown, wanted), *notes]

    def preview(self, session: Session | None, *values: Any) -> list[Any]:
        """The picture while a slider is being dragged."""
        try:
            session = known(session)
            wanted, dragging = self._scene(session, values)
            shown = self.playground.show(session, wanted, dragging=dragging)
        except EigenbankError as error:
            return self._problem(error)
        return [gr.skip()] * 4 if shown is None else self._shown(shown, wanted)

    def prepare(self, session: Session | None, *values: Any) -> None:
        """What the next move will need; what is wrong was said already."""
        try:
            session = known(session)
            wanted, dragging = self._scene(session, values)
            self.playground.prepare(session, wanted, dragging)
        except EigenbankError:
            return

    def _scene(self, session: Session, values: Sequence[Any]) -> tuple[Scene, int]:
        said = dict(zip(self._names, values, strict=False))
        dragging = said.pop("dragging")
        photo = None if session.photo is None else session.photo.digest
        found = scene(**said, sliders=moved(session.sliders, session.ranges, values[len(self._names) :]), photo=photo)
        return found, scene(model=found.model, steps=dragging).steps

    def _shown(self, shown: Shown, wanted: Scene) -> list[Any]:
        small = ["picture", "pixels"] if max(shown.edited.size) <= SMALL else ["picture"]
        said = "; ".join(f"{each.key} {each.scale:+g}" for each in wanted.moved) or "no slider is moved"
        pictures = [
            gr.Image(value=shown.photo, visible=shown.photo is not None, elem_classes=small),
            gr.Image(value=shown.unedited, elem_classes=small),
            gr.Image(value=shown.edited, elem_classes=small, alt_text=f"edited picture: {said}"),
        ]
        return [*pictures, self._status(shown)]

    def _status(self, shown: Shown) -> str:
        parts = [f"{shown.steps} step{'s' * (shown.steps != 1)}"]
        parts += ["while dragging"] if not shown.full else []
        parts += [f"{shown.seconds:.2f} s" if shown.seconds else "drawn before"]
        if shown.error is not None:
            parts += [f"round trip off by {shown.error:.3f}"]
        return note(" · ".join(parts)) + (note(shown.poor, problem=True) if shown.poor and shown.full else "")

    def _problem(self, error: Exception) -> list[Any]:
        return [*[gr.skip()] * 3, note(str(error), problem=True)]

    # Which sliders there are.

    def open(self, session: Session | None, model: str) -> list[Any]:
        """A model is chosen: its sliders, samplers and names."""
        session = session or Session()
        try:
            studio = self.playground.studio(str(model))
        except EigenbankError as error:
            return [session, *[gr.skip()] * (2 * MAX_SLIDERS + 4), note(str(error), problem=True)]
        names = list(studio.samplers)
        return [
            *self._slots(session, studio, studio.first()),
            gr.Dropdown(choices=names, value=names[0]),
            gr.Dropdown(choices=studio.names[:NAMES], value=None),
            gr.Textbox(visible=studio.prompted),
            gr.Slider(visible=studio.prompted, value=studio.guidance),
            "",
        ]

    def zero(self) -> list[float]:
        """All sliders to the middle."""
        return [0.0] * MAX_SLIDERS

    def added(self, session: Session | None, model: str, name: str | None, *values: float) -> list[Any]:
        """A slider more, for a label or an id."""
        try:
            session = known(session)
            if not name or not str(name).strip():
                message = "name a label or a direction's id: the list shows them as you type"
                raise SteerError(message)
            studio = self.playground.studio(str(model))
            key = studio.knob(str(name)).key
            there = moved(session.sliders, session.ranges, values)
            if key in [each.key for each in there]:
                message = f"{key!r} has a slider already"
                raise SteerError(message)
            if len(there) >= MAX_SLIDERS:
                message = f"there are {MAX_SLIDERS} sliders, as many as the page has room for: remove one first"
                raise SteerError(message)
            slots = self._slots(session, studio, [*there, Slider(key=key, scale=0.0)])
        except EigenbankError as error:
            return [*[gr.skip()] * (2 + 2 * MAX_SLIDERS), note(str(error), problem=True)]
        return [*slots, gr.Dropdown(value=None), note(f"{key} has a slider now")]

    def removed(self, event: gr.EventData, session: Session | None, model: str, *values: float) -> list[Any]:
        """A slider less."""
        number = next(place for place, each in enumerate(self.at.removers) if each is event.target)
        try:
            session = known(session)
            there = moved(session.sliders, session.ranges, values)
            slots = self._slots(session, self.playground.studio(str(model)), [*there[:number], *there[number + 1 :]])
        except EigenbankError as error:
            return [*[gr.skip()] * (1 + 2 * MAX_SLIDERS), note(str(error), problem=True)]
        return [*slots, ""]

    def read_sliders(self, session: Session | None, model: str, path: str) -> list[Any]:
        """The sliders of a file instead of these."""
        try:
            session, studio = known(session), self.playground.studio(model)
            found = studio.read(Path(path))
            slots = self._slots(session, studio, found)
        except EigenbankError as error:
            return [*[gr.skip()] * (1 + 2 * MAX_SLIDERS), note(nameless(error, path), problem=True)]
        return [*slots, note(f"sliders of the file: {len(found)}")]

    def _slots(self, session: Session, studio: Studio, wanted: Sequence[Slider]) -> list[Any]:
        """What the session, rows and sliders become, for these to be the sliders."""
        shown = [slot(studio.knob(each.key), each) for each in wanted]
        session.sliders = tuple(wanted)
        session.ranges = tuple((each.minimum, each.maximum) for each in shown)
        rows = [gr.Row(visible=number < len(wanted)) for number in range(MAX_SLIDERS)]
        return [session, *rows, *shown, *[gr.skip()] * (MAX_SLIDERS - len(wanted))]

    # Photos.

    def read_photo(self, session: Session | None, path: str) -> list[Any]:
        """A photo was uploaded: taken, or what is wrong with it."""
        try:
            session = known(session)
            session.photo = None
            photo = self.playground.read_photo(session, Path(path))
        except EigenbankError as error:
            return [note(nameless(error, path), problem=True), None]
        said = "; ".join(["the photo is run back to its noise and drawn again from there", *photo.notes])
        return [note(said), gr.skip()]

    def drop_photo(self, session: Session | None) -> str:
        """Back to pictures from noise."""
        if session is not None:
            session.photo = None
        return ""


def known(session: Session | None) -> Session:
    """The session of a tab. Raises SteerError where the server has forgotten it, for others that came since."""
    if session is None:
        message = "this page was left alone for too long: reload it"
        raise SteerError(message)
    return session


def slot(knob: Knob, slider: Slider) -> gr.Slider:
    """A slot that shows a slider; wide enough for its value."""
    low, high = min(knob.low, slider.scale), max(knob.high, slider.scale)
    told = "recommended" if knob.measured else "default range"
    extra = [f"{name} {value}" for name, value in slider.model_dump(include={"guidance", "site"}).items() if value]
    extra += [f"window {slider.window.start:g} to {slider.window.end:g}"] if slider.window is not None else []
    info = " · ".join([f"{told} {knob.low:g} to {knob.high:g}".replace("-", "−"), *extra])
    return gr.Slider(minimum=low, maximum=high, value=slider.scale, label=knob.key, info=html.escape(info))


def nameless(error: Exception, path: str) -> str:
    """What an error says of an uploaded file, without the place where the server keeps it."""
    return str(error).replace(repr(path), "it").replace(path, "the file")


def note(text: str, *, problem: bool = False) -> str:
    """A line of words under a control, escaped."""
    return f'<p class="note{" problem" * problem}" role="{"alert" if problem else "status"}">{html.escape(text)}</p>'
