"""A Gradio Space that serves the playground. Put this and requirements.txt into a Space of the SDK `gradio`.

It shows the demo checkpoint that ships with eigenbank. For a checkpoint and a direction set on the Hub:

    from huggingface_hub import snapshot_download

    launch("ORG/CHECKPOINT", checkpoint=snapshot_download("ORG/CHECKPOINT"))
"""

from eigenbank.play import launch
from eigenbank.schemas.drawing import Drawing

if __name__ == "__main__":
    launch("eigenbank/avatars-64", drawing=Drawing(prompts=("a smiling person",), guidance_scale=4))
