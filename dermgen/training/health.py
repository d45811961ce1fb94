"""Whether the step in progress is finite: NaN weights must not be written, or take the place of good ones on disk."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from dermgen.config import InputError
from dermgen.training.checkpoints import last_whole


class StepHealth:
    """Losses and gradient norms of one step, and the ids of its images."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.losses: list[torch.Tensor] = []
        self.norms: list[torch.Tensor] = []
        self.image_ids: list[str] = []

    def flags(self) -> torch.Tensor:
        """Whether a loss, and whether a gradient is NaN or infinite on this process, (2,) float32."""
        bad = [
            ~torch.isfinite(torch.stack(values)).all() if values else torch.tensor(False)
            for values in (self.losses, self.norms)
        ]
        return torch.stack([b.to(self.accelerator.device) for b in bad]).float()

    def require_finite(self, step: int, output_dir: Path, flags: list[float] | None = None) -> None:
        """Stop the run if a loss or a gradient is not finite on any process.

        Args:
            step: the step in progress.
            output_dir: the run folder.
            flags: the largest `flags` of all processes, if they have been gathered already.
        """
        if flags is None:
            flags = self.accelerator.gather(self.flags()[None]).amax(0).tolist()
        bad_loss, bad_gradient = flags
        if not bad_loss and not bad_gradient:
            return
        image_ids = gather_object(self.image_ids)
        raise InputError(
            f"the {'loss' if bad_loss else 'gradient of the loss'} became NaN or infinite in step {step}"
            + (f", on images {', '.join(image_ids)}" if image_ids else "")
            + f"; the last good checkpoint is {last_whole(output_dir)}: train in float32 "
            "(--mixed_precision no), or start again in a new folder with a lower learning rate"
        )
