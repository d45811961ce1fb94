"""Settings of each command and training script: what `--help` lists and recipes hold; no heavy library is imported."""
