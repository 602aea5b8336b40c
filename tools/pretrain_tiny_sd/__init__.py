"""Pre-trains ``examples/tiny-sd``: a small, complete Stable Diffusion on Noto emoji art."""
