"""The page's controls, where they are and what they are called. What they do is in `app.py`."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from eigenbank.play.scene import DRAGGING, MAX_PROMPT, MAX_SEED, MAX_SLIDERS, MAX_STEPS, STEPS

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
HEADING = """<h1>eigenbank playground</h1>
<p>Each slider adds one eigenvector of the model's own self-attention weights while it draws. Nothing was trained for it.</p>"""


def theme() -> gr.themes.Base:
    """Fonts of the reader's machine: nothing is fetched."""
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


class Layout:
    """All controls, laid out where it is made: within a `gr.Blocks`. Slots for sliders are there from the start, unseen."""

    def __init__(self, models: Sequence[str], first: str) -> None:
        self.session = gr.State(None)
        gr.HTML(HEADING, elem_id="heading", padding=False)
        with gr.Row(elem_id="page"):
            with gr.Column(scale=6, min_width=320):
                self._pictures()
                self._drawing()
                self._along()
            with gr.Column(scale=5, min_width=320):
                self.model = gr.Dropdown(list(models), value=first, label="Model", elem_id="model")
                self._knobs()
                self._photo()

    def _pictures(self) -> None:
        with gr.Row(elem_id="pictures", equal_height=True):
            self.photo = _picture("photo", visible=False)
            self.unedited = _picture("unedited")
            self.edited = _picture("edited")
        self.status = gr.HTML(elem_id="status", padding=False, min_height=24)

    def _drawing(self) -> None:
        with gr.Group(elem_id="drawing"):
            with gr.Row():
                self.seed = gr.Number(
                    0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed", min_width=110
                )
                self.sampler = gr.Dropdown([], label="Sampler", elem_id="sampler", min_width=150)
            with gr.Row():
                self.steps = gr.Slider(1, MAX_STEPS, STEPS, step=1, label="Steps", elem_id="steps", buttons=[])
                self.dragging = gr.Slider(
                    1, MAX_STEPS, DRAGGING, step=1, label="Steps while dragging", elem_id="dragging", buttons=[]
                )
            self.prompt = gr.Textbox("", label="Prompt", max_length=MAX_PROMPT, visible=False, elem_id="prompt")
            self.guidance = gr.Slider(1, 20, 1, step=0.5, label="Guidance", visible=False, elem_id="guidance")

    def _along(self) -> None:
        code = {"interactive": False, "show_label": False, "wrap_lines": True, "lines": 6, "max_lines": 12}
        with gr.Accordion("Take it along", elem_id="along"):
            with gr.Tab("Python"):
                self.python = gr.Code(language="python", elem_id="python", **code)
            with gr.Tab("Command line"):
                self.command = gr.Code(language="shell", elem_id="command", **code)
            with gr.Tab("Sliders (JSON)"):
                self.json = gr.Code(language="json", elem_id="json", **code)
                self.load = gr.UploadButton("Load sliders from a file", size="sm", type="filepath", elem_id="load")
                self.json_note = gr.HTML(elem_id="json-note", padding=False)

    def _knobs(self) -> None:
        self.rows: list[gr.Row] = []
        self.sliders: list[gr.Slider] = []
        self.removers: list[gr.Button] = []
        with gr.Column(elem_id="knobs"):
            for number in range(MAX_SLIDERS):
                with gr.Row(visible=False, elem_classes="knob") as row:
                    slider = gr.Slider(
                        -1,
                        1,
                        0,
                        step=0.05,
                        label="-",
                        interactive=True,
                        elem_id=f"slider-{number}",
                        scale=8,
                        buttons=[],
                    )
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
                label="JPEG, PNG, WebP, BMP or TIFF; its middle is taken", type="filepath", height=110, elem_id="upload"
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
