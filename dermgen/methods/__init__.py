"""One file a method: its config, its networks, its training loop, its generator."""
