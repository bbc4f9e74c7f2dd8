"""The page's controls, where they are and what they are called. What they do is in `app.py`."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from eigenbank.play.scene import DRAGGING, MAX_PROMPT, MAX_SEED, MAX_SLIDERS, MAX_STEPS, STEPS

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")


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
        self.session = gr.State(None, time_to_live=3600)
        with gr.Row(elem_id="page"):
            with gr.Column(scale=5, min_width=320):
                with gr.Row(elem_id="pictures"):
                    self.photo = self._picture("photo", visible=False)
                    self.unedited = self._picture("unedited")
                    self.edited = self._picture("edited")
                self.status = gr.HTML(elem_id="status")
                with gr.Accordion("A photo of yours", open=False, elem_id="photo-box"):
                    self.upload = gr.File(
                        label="JPEG, PNG, WebP, BMP or TIFF; cropped to its middle", type="filepath", height=120, elem_id="upload"
                    )
                    self.photo_note = gr.HTML(elem_id="photo-note")
                with gr.Accordion("Take it along", open=False, elem_id="along"):
                    with gr.Tab("Python"):
                        self.python = gr.Code(language="python", interactive=False, show_label=False, elem_id="python")
                    with gr.Tab("Command line"):
                        self.command = gr.Code(language="shell", interactive=False, show_label=False, elem_id="command")
                    with gr.Tab("Sliders as JSON"):
                        self.json = gr.Code(language="json", interactive=False, show_label=False, elem_id="json")
                        self.load = gr.UploadButton("Load sliders from a file", size="sm", elem_id="load")
                        self.json_note = gr.HTML(elem_id="json-note")
            with gr.Column(scale=4, min_width=320):
                self.model = gr.Dropdown(
                    list(models), value=first, label="Model", elem_id="model", filterable=True
                )
                self.rows, self.sliders, self.removers = [], [], []
                for number in range(MAX_SLIDERS):
                    with gr.Row(visible=False, elem_classes="knob", equal_height=True) as row:
                        slider = gr.Slider(
                            -2, 2, 0, step=0.05, label="", interactive=True, elem_id=f"slider-{number}", scale=8
                        )
                        remove = gr.Button("✕", size="sm", scale=0, min_width=34, elem_id=f"remove-{number}")
                    self.rows.append(row)
                    self.sliders.append(slider)
                    self.removers.append(remove)
                self.reset = gr.Button("Reset all to zero", size="sm", elem_id="reset")
                with gr.Row(equal_height=True, elem_id="adding"):
                    self.name = gr.Dropdown(
                        [], label="Add a direction by label or id", allow_custom_value=True, value=None, elem_id="name", scale=5
                    )
                    self.add = gr.Button("Add", scale=1, min_width=70, elem_id="add")
                self.add_note = gr.HTML(elem_id="add-note")
                with gr.Accordion("How it is drawn", open=True):
                    with gr.Row():
                        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
                        self.sampler = gr.Dropdown([], label="Sampler", elem_id="sampler")
                    with gr.Row():
                        self.steps = gr.Slider(1, MAX_STEPS, STEPS, step=1, label="Steps", elem_id="steps")
                        self.dragging = gr.Slider(
                            1, MAX_STEPS, DRAGGING, step=1, label="Steps while dragging", elem_id="dragging"
                        )
                    self.prompt = gr.Textbox(
                        "", label="Prompt", max_length=MAX_PROMPT, visible=False, elem_id="prompt"
                    )
                    self.guidance = gr.Slider(1, 20, 1, step=0.5, label="Guidance", visible=False, elem_id="guidance")

    @staticmethod
    def _picture(name: str, *, visible: bool = True) -> gr.Image:
        return gr.Image(
            label=name, alt_text=f"{name} picture", format="png", interactive=False, height=300, visible=visible,
            buttons=["download", "fullscreen"], elem_id=f"picture-{name}", elem_classes="picture",
        )  # fmt: skip
