"""Stable Diffusion: loading, cached inputs, the weights that are trained, and sampling."""
