"""One training run: devices, endless data, updates, EMA, checkpoints, resuming, logs and sample grids.

A method owns its loop body; `Run` owns everything around it. The learning rate is a function of the step, and all that
is random about the k-th image drawn is a function of `(seed, k)` (see `draws`), so a checkpoint holds weights,
optimizer, EMA and the step, and a resumed run ends with the same bits as an uninterrupted one.
"""

import json
import math
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, send_to_device, set_seed
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, default_collate
from tqdm.auto import tqdm

from dermgen import installation
from dermgen.config import InputError
from dermgen.data.sheets import save_grid
from dermgen.settings.training import TrainConfig
from dermgen.training import checkpoints, metrics_log, run_record
from dermgen.training.draws import Draws, derive_seed, endless_loader
from dermgen.training.health import StepHealth
from dermgen.training.interruption import Interruption
from dermgen.training.optimizers import learning_rates
from dermgen.training.processes import accelerator_for, average_gradients, claim_together, device_name
from dermgen.training.run_record import RunRecord
from dermgen.training.trackers import log_samples, tracking
from dermgen.training.trained_weights import MovingAverage, load_models, save_models


class Run:
    """One training run on any number of processes.

    >>> run = Run(config)
    >>> unet, optimizer = run.prepare(unet, optimizer, average=unet)
    >>> for batch in run.batches(dataset):
    ...     loss = loss_fn(unet, batch, run.draws)
    ...     run.update(loss.mean(), optimizer)
    ...     run.log(loss=loss.mean())

    Within the loop `run.step` is the number of the optimizer step in progress, from 1, and `run.draws` holds one random
    stream for each image of the batch.

    Args:
        config: the settings; `output_dir` must be new, empty, or a folder of this same run.
        save_weights: writes the trained weights into a checkpoint folder; by default each model's trained
            parameters and buffers go to `model.safetensors`, `model_1.safetensors`, …
        load_weights: reads them back; given with `save_weights` or not at all.

    Raises:
        InputError: if the folder holds another run, or settings that a resumed run may not change have changed.
    """

    def __init__(
        self,
        config: TrainConfig,
        save_weights: Callable[[Path], None] | None = None,
        load_weights: Callable[[Path], None] | None = None,
    ):
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.step = 0
        self.max_train_steps = config.max_train_steps
        self.lr_factor = 1.0  # on top of the schedule, for a method that lowers the rate by what it measures
        self.draws: Draws
        self._models: list[nn.Module] = []
        self._optimizers: list[Optimizer] = []
        self._save_weights = save_weights or (lambda folder: save_models(self._unwrapped(), folder))
        self._load_weights = load_weights or (lambda folder: load_models(self._unwrapped(), folder))
        self._average: MovingAverage | None = None
        self._first_gradient_checked = False
        self._wrapped = True
        self._resumed = False
        self._interruption = Interruption()
        self._health: StepHealth
        self._metrics = metrics_log.PendingMeans()
        self._seconds: float | None = 0.0  # of training before this start
        self._started = time.monotonic()

        self.accelerator = accelerator_for(config)
        self.accelerator.register_save_state_pre_hook(self._on_save)
        self.accelerator.register_load_state_pre_hook(self._on_load)
        self.id = _claim_folder(self.output_dir, config, self.accelerator)
        if config.allow_tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
        set_seed(config.seed)

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def images_per_step(self) -> int:
        config = self.config
        return config.train_batch_size * config.gradient_accumulation_steps * self.accelerator.num_processes

    def prepare(self, *objects, average: nn.Module | Sequence[nn.Module] = (), wrap: bool = True) -> list:
        """Place models and optimizers on their devices; keep an EMA of `average` with `ema_decay`.

        Args:
            objects: models and optimizers.
            average: the model, or models, of the EMA: all that the final weights consist of.
            wrap: let accelerate wrap the models for several processes and precisions. Adversarial training calls a
                model several times for one backward pass and differentiates it twice, which `DistributedDataParallel`
                forbids; with False the models stay as they are, `update` averages their gradients over the processes,
                and the method itself enters `accelerator.autocast()`.
        """
        if self.config.torch_compile:
            for model in objects:
                if isinstance(model, nn.Module):
                    model.compile()
        if wrap:
            prepared = [self.accelerator.prepare(x) for x in objects]
        else:
            if self.accelerator.distributed_type == DistributedType.FSDP:
                raise InputError("FSDP is not for adversarial training: use accelerate_configs/multi_gpu.yaml")
            prepared = [
                x.to(self.accelerator.device) if isinstance(x, nn.Module) else self.accelerator.prepare(x)
                for x in objects
            ]
        self._wrapped = wrap
        self._models += [x for x in prepared if isinstance(x, nn.Module)]
        self._optimizers += [x for x in prepared if isinstance(x, Optimizer)]
        averaged = [average] if isinstance(average, nn.Module) else list(average)
        if averaged and self.config.ema_decay:
            if self.accelerator.distributed_type == DistributedType.FSDP:
                raise InputError("ema_decay does not work with FSDP, which shards the weights: set it to 0")
            self._average = MovingAverage(averaged, self.config.ema_decay)
        return prepared

    def batches(self, *datasets: Dataset, collate_fn: Callable = default_collate) -> Iterator:
        """Yield batches until the last optimizer step is done, from the last checkpoint on.

        With one data set a batch is what `collate_fn` makes of its items; with several, a tuple of such batches, one
        for each data set. Batches are on the run's device, and `run.draws` follows their images, set after set.
        """
        config = self.config
        if self.max_train_steps is None:
            self.max_train_steps = config.num_train_epochs * self.steps_per_epoch(*datasets)
        self.resume()
        scale = self.images_per_step if config.scale_lr else 1
        lr_at = learning_rates(self._optimizers, config, self.max_train_steps, scale)
        loader = endless_loader(datasets, collate_fn, config, self.step * self.images_per_step, self.accelerator)
        self._started = time.monotonic()
        progress = tqdm(
            total=self.max_train_steps, initial=self.step, desc="steps", disable=not self.is_main, dynamic_ncols=True
        )
        with tracking(self.accelerator, config), self._interruption.caught(), progress:
            while self.step < self.max_train_steps:
                self.step += 1
                for group, lr in lr_at(self.step - 1):
                    group["lr"] = lr * self.lr_factor
                self._health = StepHealth(self.accelerator)
                for micro_step in range(config.gradient_accumulation_steps):
                    ks, *batch = send_to_device(next(loader), self.accelerator.device, non_blocking=True)
                    ks = ks.tolist()
                    self.draws = Draws(
                        [derive_seed(config.seed, i, k) for i in range(len(datasets)) for k in ks],
                        self.accelerator.device,
                    )
                    # Layers such as dropout draw from the global stream, which belongs to a process, not to an image.
                    set_seed(derive_seed(config.seed, self.step, micro_step, self.accelerator.process_index) % 2**32)
                    self._health.image_ids += _image_ids(batch)
                    with self.accelerator.accumulate(*self._models):
                        yield batch[0] if len(datasets) == 1 else tuple(batch)
                self._finish_step(progress)
        if self._recorded_end() != self.step:  # a run that had finished keeps its record
            seconds = self._spent()
            self.record(
                finished_step=self.step,
                training_seconds=None if seconds is None else round(seconds, 1),
                device=device_name(self.accelerator),
                processes=self.accelerator.num_processes,
            )
        self.accelerator.wait_for_everyone()

    def steps_per_epoch(self, *datasets: Dataset) -> int:
        """Optimizer steps in which every item of the largest data set is drawn once."""
        batches = math.ceil(max(len(d) for d in datasets) / self.config.train_batch_size)
        return math.ceil(math.ceil(batches / self.accelerator.num_processes) / self.config.gradient_accumulation_steps)

    def update(self, loss: torch.Tensor, optimizer: Optimizer) -> None:
        """Back-propagate the scalar `loss`; once enough gradients are accumulated, clip them and step."""
        self.accelerator.backward(loss)
        self._health.losses.append(loss.detach().float())
        if self.accelerator.sync_gradients:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if not self._wrapped:
                average_gradients(parameters, self.accelerator)
            norm = self.accelerator.clip_grad_norm_(parameters, self.config.max_grad_norm)
            if self.accelerator.scaler is None:  # a gradient scaler leaves out the steps whose gradients overflow
                self._health.norms.append(norm.detach().float())
            if not self._first_gradient_checked:
                self._first_gradient_checked = True
                if norm == 0:
                    raise RuntimeError(
                        "no gradient reached the trained weights in the first step; an attention back end without a "
                        "backward pass does this (try without --enable_xformers_memory_efficient_attention)"
                    )
        optimizer.step()
        optimizer.zero_grad()
        if self._average is not None and self.accelerator.sync_gradients and self._average.is_trained_by(optimizer):
            self._average.step()

    def log(self, **scalars: torch.Tensor | float) -> None:
        """Note scalars of this batch; their mean over batches, processes and `logging_steps` steps is written."""
        for name, value in scalars.items():
            value = torch.as_tensor(value, dtype=torch.float32, device=self.accelerator.device).detach()
            self._metrics.log(name, value)

    def due(self, every: int | None) -> bool:
        """True at the end of each `every`-th optimizer step and of the last one; never for None."""
        at_end = self.step == self.max_train_steps
        due = bool(every) and self.accelerator.sync_gradients and (at_end or self.step % every == 0)
        if due:  # the weights are about to be validated, and perhaps kept as the best
            self._health.require_finite(self.step, self.output_dir)
        return due

    def finish(self) -> None:
        """Make the step in progress, or the one resumed from, the last."""
        self.max_train_steps = self.step

    def write_metrics(self, **scalars: float) -> None:
        """Append one line to metrics.jsonl and to the trackers, at the current step (on the main process)."""
        if self.is_main:
            metrics_log.append(self.output_dir / "metrics.jsonl", self.step, scalars)
        self.accelerator.log(scalars, step=self.step)

    def sample_grid(self, images: torch.Tensor, columns: int) -> Path:
        """Write uint8 (N, 3, H, W) images as one grid, `samples/step-N.png`, and to the trackers."""
        path = self.output_dir / "samples" / f"step-{self.step}.png"
        path.parent.mkdir(exist_ok=True)
        save_grid(images, path, columns)
        log_samples(self.accelerator, images, self.step)
        return path

    def averaged_weights(self) -> AbstractContextManager:
        """Within the block the averaged models hold their EMA weights; without EMA it does nothing."""
        return nullcontext() if self._average is None else self._average.in_place()

    def record(self, **facts) -> None:
        """Add facts to the run's record; each is a field of `RunRecord`."""
        if self.is_main:
            run_record.add(self.output_dir, **facts)

    def _recorded_end(self) -> int | None:
        """The step that a finished run recorded; None, or an older one, if it was killed after the last checkpoint."""
        return RunRecord.read(self.output_dir).finished_step

    def _spent(self) -> float | None:
        """Seconds of training, including validations and those before the run was resumed; None if unknown."""
        return None if self._seconds is None else self._seconds + time.monotonic() - self._started

    def _finish_step(self, progress: tqdm) -> None:
        """Agree with the other processes on this step's scalars, its health and whether to stop; log; checkpoint."""
        config = self.config
        means = self._metrics.end_step()
        stop = torch.tensor(float(self._interruption.number), device=self.accelerator.device)
        rows = self.accelerator.gather(torch.cat([self._health.flags(), torch.stack([stop, *means.values()])])[None])
        # The one point of a step where the CPU waits for the device.
        *bad, stop = rows[:, :3].amax(0).tolist()
        values = rows[:, 3:].mean(0).tolist()
        self._health.require_finite(self.step, self.output_dir, bad)
        self._metrics.add(dict(zip(means, values, strict=True)))
        progress.update()
        if self.step % config.logging_steps == 0 or self.step == self.max_train_steps:
            averages = self._metrics.take()
            self.write_metrics(**averages, learning_rate=self._optimizers[0].param_groups[0]["lr"])
            progress.set_postfix({name: f"{value:.4f}" for name, value in averages.items()})
        if self.step % config.checkpointing_steps == 0 or self.step == self.max_train_steps or stop:
            self.checkpoint()
        if stop and self.step < self.max_train_steps:
            if self.is_main:
                progress.close()
                print(
                    f"Stopped by {signal.Signals(int(stop)).name} after step {self.step} of {self.max_train_steps}; "
                    f"saved {self.output_dir / f'checkpoint-{self.step}'}.\nRun the same command again to resume.",
                    file=sys.stderr,
                )
            sys.exit(128 + int(stop))

    def checkpoint(self) -> None:
        """Write `checkpoint-<step>`; only once it is whole, drop this run's oldest beyond `checkpoints_total_limit`."""
        with checkpoints.whole_checkpoint(self.output_dir, self.step, self.accelerator) as folder:
            self.accelerator.save_state(str(folder))
            if self.is_main:
                state = {
                    "run": self.id,
                    "step": self.step,
                    "images_per_step": self.images_per_step,
                    **self._metrics.state(),
                    "seconds": self._spent(),
                }
                (folder / checkpoints.STATE_FILE).write_text(json.dumps(state))
        if self.is_main:
            checkpoints.rotate(self.output_dir, self.id, self.step, self.config.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Continue from the last checkpoint, if any; `batches` does it unless the method has done so before."""
        if self._resumed:
            return
        self._resumed = True
        path = checkpoints.to_resume(self.output_dir, self.config.resume_from_checkpoint)
        if path is not None:
            self._load(path)
        if self.is_main:
            # Without a checkpoint, the lines of a run killed before its first one.
            metrics_log.cut(self.output_dir / "metrics.jsonl", self.step)
        self.accelerator.wait_for_everyone()

    def _load(self, checkpoint: Path) -> None:
        state = checkpoints.read_state(checkpoint)
        if state["images_per_step"] != self.images_per_step:
            raise InputError(
                f"{checkpoint} was written with {state['images_per_step']} images per step, this run has "
                f"{self.images_per_step}: keep train_batch_size x gradient_accumulation_steps x processes the same"
            )
        self.accelerator.load_state(str(checkpoint))
        self.accelerator.step = 0  # accelerate's count of micro-steps: accumulation may have changed
        self.step = state["step"]
        self._metrics.load(state)
        self._seconds = state.get("seconds")
        self._first_gradient_checked = True
        if self._average is not None:
            self._average.ema.optimization_step = self.step
        if self.is_main:
            checkpoints.clear_unfinished(self.output_dir, self.id, self.step, self.config.checkpoints_total_limit)
            print(f"Resuming from {checkpoint}", file=sys.stderr)

    def _on_save(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return  # accelerate has written the shards
        weights.clear()
        if self.is_main:
            self._save_weights(Path(folder))
            if self._average is not None:
                self._average.save(Path(folder, "ema.safetensors"))

    def _on_load(self, models: list[nn.Module], folder: str) -> None:
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return
        models.clear()
        self._load_weights(Path(folder))
        if self._average is not None:
            self._average.load(Path(folder, "ema.safetensors"))

    def _unwrapped(self) -> list[nn.Module]:
        return [self.accelerator.unwrap_model(model) for model in self._models]


def _claim_folder(output_dir: Path, config: TrainConfig, accelerator: Accelerator) -> str:
    """Make the run folder, or check that it is this run's own; return the run's id."""
    claim_together(accelerator, output_dir, config)
    if accelerator.is_main_process:
        run_record.begin(output_dir, run=uuid.uuid4().hex, **installation.versions())
    accelerator.wait_for_everyone()
    return RunRecord.read(output_dir).run


def _image_ids(batch: list) -> list[str]:
    return [i for part in batch if isinstance(part, dict) for i in part.get("image_id", [])]
