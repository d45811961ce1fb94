"""A training of a small network on numbers, to be started, stopped and killed by tests.

Its loss uses the image, noise, a timestep and a flip, all drawn for the image; `--die` kills the process with SIGKILL
at a chosen moment of its second checkpoint, or after its last.
"""

import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from dermgen.config import option, parse
from dermgen.job import user_errors
from dermgen.settings.training import TrainConfig
from dermgen.training.run import Run


@dataclass(frozen=True, kw_only=True)
class ToyConfig(TrainConfig):
    """A toy."""

    learning_rate: float = option(0.05, "peak")
    report_to: str = option("none", "no trackers")
    logging_steps: int = option(1, "every step")
    die: str | None = option(None, "saving, whole, rotating or ending", free=True)
    sleep: float = option(0.0, "seconds per batch", free=True)
    poison: int | None = option(None, "make the loss NaN in this step", free=True)
    poison_gradient: int | None = option(None, "make the gradient NaN in this step, not the loss", free=True)


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        return {"x": torch.randn(3, generator=torch.Generator().manual_seed(i)), "image_id": f"image{i}"}


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))


def train(config: ToyConfig) -> tuple[nn.Module, Run]:
    run = Run(config)
    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate)
    model, optimizer = run.prepare(net, optimizer, average=net)
    for batch in run.batches(Numbers()):
        time.sleep(config.sleep)
        flip = torch.where(run.draws.uniform() < 0.5, -1.0, 1.0)[:, None]
        noise, t = run.draws.normal(3), run.draws.integers(10)[:, None] / 10
        loss = (model(batch["x"] * flip + t * noise) - noise).pow(2).mean(1)
        if config.poison == run.step:
            loss = loss * float("nan")
        if config.poison_gradient == run.step:  # the slope of a root at 0 is infinite
            loss = loss + (loss - loss.detach()).abs().sqrt()
        run.update(loss.mean(), optimizer)
        run.log(loss=loss.mean())
    return net, run


def die_at(moment: str) -> None:
    """Arrange for a SIGKILL at a moment of the second checkpoint."""
    save_state, rename, rmtree = Accelerator.save_state, Path.rename, shutil.rmtree
    last = {"whole": "checkpoint-4.partial", "ending": "checkpoint-6.partial"}

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def saving(self, folder, *args, **kwargs):
        save_state(self, folder, *args, **kwargs)
        if moment == "saving" and "checkpoint-4" in folder:
            Path(folder, "optimizer.bin").write_bytes(b"half")
            kill()

    def renaming(self, target):
        result = rename(self, target)
        if self.name == last.get(moment):
            kill()
        return result

    def removing(path, **options):
        if moment == "rotating" and Path(path).name.startswith("checkpoint-2") and Path(path).exists():
            Path(path, "optimizer.bin").unlink()
            kill()
        rmtree(path, **options)

    Accelerator.save_state, Path.rename, shutil.rmtree = saving, renaming, removing


if __name__ == "__main__":
    with user_errors():
        config = parse(ToyConfig, sys.argv[1:])
        if config.die:
            die_at(config.die)
        net, run = train(config)
        with run.averaged_weights():
            average = {f"ema.{k}": v.clone() for k, v in net.state_dict().items()}
        if run.is_main:
            save_file({**net.state_dict(), **average}, Path(config.output_dir, "final.safetensors"))
