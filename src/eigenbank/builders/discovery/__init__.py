"""Finding the self-attention layers of a denoiser by tracing its forward pass. See docs/discovery.md."""
