"""Stable Diffusion as a material: loading, its inputs on disk, what is trained of it, drawing from it."""
