"""Train the demo: a small text-to-image checkpoint of avatars, in Stable Diffusion's layout.

Run `python -m avatars all` in the folder `training`. See its README.
"""
