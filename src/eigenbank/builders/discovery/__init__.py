"""Finding the self-attention layers of a denoiser by tracing its forward pass."""
