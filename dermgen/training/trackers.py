"""What a run sends to TensorBoard, Weights & Biases or Comet in addition to its own files."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from dermgen.settings.training import TrainConfig


@contextmanager
def tracking(accelerator: Accelerator, config: TrainConfig) -> Iterator[None]:
    """Within the block the trackers of `report_to` are open."""
    flat = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in vars(config).items()}
    accelerator.init_trackers(type(config).__name__, config=flat)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # end_training() would part the processes for good
            tracker.finish()


def log_samples(accelerator: Accelerator, images: torch.Tensor, step: int) -> None:
    """Send uint8 (N, 3, H, W) images to the trackers that take images."""
    pictures = {"samples": images.permute(0, 2, 3, 1).cpu().numpy()}
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images(pictures, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images(pictures, step=step)
