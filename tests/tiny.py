"""The names that tests import from here; the pipelines are made in `textpipes`."""

from textpipes import CALLS, embeddings, latent_diffusion, pipeline
from textpipes import draw_image as draw

__all__ = ["CALLS", "draw", "embeddings", "latent_diffusion", "pipeline"]
