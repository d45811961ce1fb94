"""One training run: devices, endless data, updates, EMA, checkpoints, resuming, logs and sample grids.

A method owns its loop body; `Run` owns everything around it. The learning rate is a function of the step, and all that
is random about the k-th image drawn is a function of `(seed, k)` (see `draws`), so a checkpoint holds weights,
optimizer, EMA and the step, and a resumed run ends with the same bits as an uninterrupted one.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, ProjectConfiguration, gather_object, send_to_device, set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from dermgen import config as configs
from dermgen.config import InputError
from dermgen.data.sheets import save_grid
from dermgen.job import claim_folder
from dermgen.settings.training import TrainConfig
from dermgen.training import records
from dermgen.training.draws import DrawnItems, Draws, Positions, derive_seed
from dermgen.training.records import STATE_FILE, checkpoints

PACKAGES = "dermgen torch torchvision diffusers transformers accelerate peft safetensors".split()


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
        self._save_weights = save_weights or self._save_trained
        self._load_weights = load_weights or self._load_trained
        self._models: list[nn.Module] = []
        self._optimizers: list[Optimizer] = []
        self._averaged: list[nn.Module] = []
        self._ema: EMAModel | None = None
        self._first_gradient_checked = False
        self._wrapped = True
        self._resumed = False
        self._stop_signal: int | None = None
        self._scalars: dict[str, list[torch.Tensor]] = {}
        self._losses: list[torch.Tensor] = []  # of the step in progress, and the norms of its gradients
        self._norms: list[torch.Tensor] = []
        self._image_ids: list[str] = []
        self._pending: dict[str, float] = {}
        self._pending_steps = 0
        self._seconds: float | None = 0.0  # of training before this start
        self._started = time.monotonic()

        self.accelerator = _accelerator(config)
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
        """Place models and optimizers on their devices; keep an EMA of `average` if the config asks for one.

        Args:
            objects: models and optimizers.
            average: the model, or models, of the EMA: all that the final weights are made of.
            wrap: let accelerate wrap the models for several processes and precisions. Adversarial training calls a
                model several times for one backward pass and differentiates it twice, which `DistributedDataParallel`
                forbids; with False the models stay as they are, `update` averages their gradients over the processes,
                and the method says itself where `accelerator.autocast()` holds.
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
        self._averaged = [average] if isinstance(average, nn.Module) else list(average)
        if self._averaged and self.config.ema_decay:
            if self.accelerator.distributed_type == DistributedType.FSDP:
                raise InputError("ema_decay does not work with FSDP, which shards the weights: set it to 0")
            self._ema = EMAModel(self._averaged_weights().values(), decay=self.config.ema_decay, foreach=True)
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
        lr_at = self._learning_rates()
        loader = self._loader(datasets, collate_fn)
        self._started = time.monotonic()
        progress = tqdm(
            total=self.max_train_steps, initial=self.step, desc="steps", disable=not self.is_main, dynamic_ncols=True
        )
        with self._trackers(), self._catch_signals(), progress:
            while self.step < self.max_train_steps:
                self.step += 1
                for group, lr in lr_at(self.step - 1):
                    group["lr"] = lr * self.lr_factor
                self._losses, self._norms, self._image_ids = [], [], []
                for micro_step in range(config.gradient_accumulation_steps):
                    ks, *batch = send_to_device(next(loader), self.accelerator.device, non_blocking=True)
                    ks = ks.tolist()
                    self.draws = Draws(
                        [derive_seed(config.seed, i, k) for i in range(len(datasets)) for k in ks],
                        self.accelerator.device,
                    )
                    # Layers such as dropout draw from the global stream, which belongs to a process, not to an image.
                    set_seed(derive_seed(config.seed, self.step, micro_step, self.accelerator.process_index) % 2**32)
                    self._image_ids += _image_ids(batch)
                    with self.accelerator.accumulate(*self._models):
                        yield batch[0] if len(datasets) == 1 else tuple(batch)
                self._finish_step(progress)
        if self._recorded_end() != self.step:  # a run that had finished keeps what is written of it
            seconds = self._spent()
            self.record(
                finished_step=self.step,
                training_seconds=None if seconds is None else round(seconds, 1),
                device=_device_name(self.accelerator),
                processes=self.accelerator.num_processes,
            )
        self.accelerator.wait_for_everyone()

    def steps_per_epoch(self, *datasets: Dataset) -> int:
        """Optimizer steps in which every item of the longest data set is drawn once."""
        batches = math.ceil(max(len(d) for d in datasets) / self.config.train_batch_size)
        return math.ceil(math.ceil(batches / self.accelerator.num_processes) / self.config.gradient_accumulation_steps)

    def update(self, loss: torch.Tensor, optimizer: Optimizer) -> None:
        """Back-propagate the scalar `loss`; once enough gradients are accumulated, clip them and step."""
        self.accelerator.backward(loss)
        self._losses.append(loss.detach().float())
        if self.accelerator.sync_gradients:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if not self._wrapped:
                _average_gradients(parameters, self.accelerator)
            norm = self.accelerator.clip_grad_norm_(parameters, self.config.max_grad_norm)
            if self.accelerator.scaler is None:  # a gradient scaler leaves out the steps whose gradients overflow
                self._norms.append(norm.detach().float())
            if not self._first_gradient_checked:
                self._first_gradient_checked = True
                if norm == 0:
                    raise RuntimeError(
                        "no gradient reached the trained weights in the first step; an attention back end without a "
                        "backward pass does this (try without --enable_xformers_memory_efficient_attention)"
                    )
        optimizer.step()
        optimizer.zero_grad()
        if self._ema is not None and self.accelerator.sync_gradients and self._owns_averaged(optimizer):
            self._ema.step(self._averaged_weights().values())

    def log(self, **scalars: torch.Tensor | float) -> None:
        """Note scalars of this batch; their mean over batches, processes and `logging_steps` steps is written."""
        for name, value in scalars.items():
            value = torch.as_tensor(value, dtype=torch.float32, device=self.accelerator.device).detach()
            self._scalars.setdefault(name, []).append(value)

    def due(self, every: int | None) -> bool:
        """True at the end of each `every`-th optimizer step and of the last one; never for None."""
        at_end = self.step == self.max_train_steps
        due = bool(every) and self.accelerator.sync_gradients and (at_end or self.step % every == 0)
        if due:  # what follows looks at the weights, and may keep them as the best
            self._require_finite(*self.accelerator.gather(self._bad()[None]).amax(0).tolist())
        return due

    def finish(self) -> None:
        """Make the step in progress, or the one resumed from, the last."""
        self.max_train_steps = self.step

    def write_metrics(self, **scalars: float) -> None:
        """Append one line to metrics.jsonl and to the trackers, at the current step (on the main process)."""
        if self.is_main:
            with open(self.output_dir / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": self.step, **scalars}) + "\n")
        self.accelerator.log(scalars, step=self.step)

    def sample_grid(self, images: torch.Tensor, columns: int) -> Path:
        """Write uint8 (N, 3, H, W) images as one grid, `samples/step-N.png`, and to the trackers."""
        path = self.output_dir / "samples" / f"step-{self.step}.png"
        path.parent.mkdir(exist_ok=True)
        save_grid(images, path, columns)
        pictures = {"samples": images.permute(0, 2, 3, 1).cpu().numpy()}
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images(pictures, step=self.step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images(pictures, step=self.step)
        return path

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the averaged model holds its EMA weights; without EMA it does nothing."""
        if self._ema is None or self._ema.temp_stored_params is not None:  # without EMA, or inside such a block
            yield
            return
        parameters = list(self._averaged_weights().values())
        self._ema.store(parameters)
        self._ema.copy_to(parameters)
        try:
            yield
        finally:
            self._ema.restore(parameters)

    def record(self, **facts) -> None:
        """Add facts to provenance.json, beside package versions and the command line."""
        if self.is_main:
            path = self.output_dir / "provenance.json"
            known = json.loads(path.read_text())
            configs.write_json(path, {**known, **facts})

    def _recorded_end(self) -> int | None:
        """The step that a finished run has written down; a kill after the last checkpoint leaves none, or an older."""
        return json.loads((self.output_dir / "provenance.json").read_text()).get("finished_step")

    def _spent(self) -> float | None:
        """Seconds of training, validations and those before a resumed checkpoint among them; None if unknown."""
        return None if self._seconds is None else self._seconds + time.monotonic() - self._started

    def _loader(self, datasets, collate_fn) -> Iterator:
        items = DrawnItems(datasets, self.config.seed)
        drawn = self.step * self.images_per_step
        positions = Positions(drawn, self.accelerator.process_index, self.accelerator.num_processes)
        return iter(
            DataLoader(
                items,
                batch_size=self.config.train_batch_size,
                sampler=positions,
                collate_fn=_CollateEach(collate_fn),
                num_workers=self.config.dataloader_num_workers,
                pin_memory=self.accelerator.device.type == "cuda",
                worker_init_fn=_ignore_ctrl_c,
            )
        )

    def _finish_step(self, progress: tqdm) -> None:
        """Agree with the other processes on this step's scalars, its health and whether to stop; log; checkpoint."""
        config = self.config
        means = {name: torch.stack(values).mean() for name, values in self._scalars.items()}
        self._scalars = {}
        stop = torch.tensor(float(self._stop_signal or 0), device=self.accelerator.device)
        rows = self.accelerator.gather(torch.cat([self._bad(), torch.stack([stop, *means.values()])])[None])
        # The one point of a step where the CPU waits for the device.
        bad_loss, bad_gradient, stop, *values = [*rows[:, :3].amax(0).tolist(), *rows[:, 3:].mean(0).tolist()]
        self._require_finite(bad_loss, bad_gradient)
        for name, value in zip(means, values, strict=True):
            self._pending[name] = self._pending.get(name, 0.0) + value
        self._pending_steps += 1
        progress.update()
        if self.step % config.logging_steps == 0 or self.step == self.max_train_steps:
            averages = {name: total / self._pending_steps for name, total in self._pending.items()}
            self._pending, self._pending_steps = {}, 0
            self.write_metrics(**averages, learning_rate=self._optimizers[0].param_groups[0]["lr"])
            progress.set_postfix({name: f"{value:.4f}" for name, value in averages.items()})
        if self.step % config.checkpointing_steps == 0 or self.step == self.max_train_steps or stop:
            self.checkpoint()
        if stop and self.step < self.max_train_steps:
            if self.is_main:
                progress.close()
                print(
                    f"Stopped by {signal.Signals(int(stop)).name} after step {self.step} of {self.max_train_steps}; "
                    f"saved {self.output_dir / f'checkpoint-{self.step}'}.\nThe same command goes on from there.",
                    file=sys.stderr,
                )
            sys.exit(128 + int(stop))

    def _bad(self) -> torch.Tensor:
        """Whether a loss, and whether a gradient of the step in progress is NaN or infinite here, (2,) float32."""
        bad = [
            ~torch.isfinite(torch.stack(values)).all() if values else torch.tensor(False)
            for values in (self._losses, self._norms)
        ]
        return torch.stack([b.to(self.accelerator.device) for b in bad]).float()

    def _require_finite(self, bad_loss: float, bad_gradient: float) -> None:
        """Stop a run whose weights are NaN in memory, before they are written or averaged over good ones on disk."""
        if not bad_loss and not bad_gradient:
            return
        image_ids = gather_object(self._image_ids)
        found = checkpoints(self.output_dir)
        raise InputError(
            f"the {'loss' if bad_loss else 'gradient of the loss'} became NaN or infinite in step {self.step}"
            + (f", on images {', '.join(image_ids)}" if image_ids else "")
            + f"; the last good checkpoint is {found[-1] if found else 'none yet'}: train in float32 "
            "(--mixed_precision no), or start again in a new folder with a lower learning rate"
        )

    def checkpoint(self) -> None:
        """Write `checkpoint-<step>`; only once it is whole, drop this run's oldest beyond `checkpoints_total_limit`."""
        final = self.output_dir / f"checkpoint-{self.step}"
        partial = final.with_name(final.name + ".partial")
        try:
            if self.is_main and partial.exists():
                shutil.rmtree(partial)  # a killed run left it unfinished
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(partial))
            self.accelerator.wait_for_everyone()
            if self.is_main:
                state = {
                    "run": self.id,
                    "step": self.step,
                    "images_per_step": self.images_per_step,
                    "pending": self._pending,
                    "pending_steps": self._pending_steps,
                    "seconds": self._spent(),
                }
                (partial / STATE_FILE).write_text(json.dumps(state))
        except (OSError, RuntimeError, SafetensorError) as error:
            free = shutil.disk_usage(self.output_dir).free / 2**20
            if self.is_main:
                shutil.rmtree(partial, ignore_errors=True)  # half a checkpoint only takes the room that is wanting
            found = checkpoints(self.output_dir)
            raise InputError(
                f"{final} could not be written ({error}; {free:,.0f} MiB free); the last whole checkpoint is "
                f"{found[-1] if found else 'none yet'}: make room and give the same command again"
            ) from error
        if self.is_main:
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            # After going back to an older checkpoint, later ones belong to a course that is no longer taken.
            later = [step for step in self._own_checkpoints() if step > self.step]
            self._remove_checkpoints([*later, *self._surplus_checkpoints()])
        self.accelerator.wait_for_everyone()

    def _own_checkpoints(self) -> dict[int, Path]:
        """Whole checkpoints of this run, by step."""
        states = {path: _state(path) for path in checkpoints(self.output_dir)}
        return {state["step"]: path for path, state in states.items() if state["run"] == self.id}

    def _surplus_checkpoints(self) -> list[int]:
        """Steps of this run's oldest checkpoints beyond `checkpoints_total_limit`."""
        limit = self.config.checkpoints_total_limit
        past = sorted(step for step in self._own_checkpoints() if step <= self.step)
        return past[:-limit] if limit else []

    def _remove_checkpoints(self, steps: Sequence[int]) -> None:
        mine = self._own_checkpoints()
        for step in steps:
            # A kill while it is removed leaves what the next start clears, and nothing that looks like a checkpoint.
            partial = mine[step].with_name(mine[step].name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(mine[step].rename(partial))

    def _clear_unfinished(self) -> None:
        """Remove what a kill while a checkpoint was written, or old ones were removed, has left."""
        for path in self.output_dir.glob("checkpoint-*.partial"):
            if path.name.removeprefix("checkpoint-").removesuffix(".partial").isdigit():
                shutil.rmtree(path)
        self._remove_checkpoints(self._surplus_checkpoints())

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one; `batches` does it unless the method has done it before."""
        if self._resumed:
            return
        self._resumed = True
        asked = self.config.resume_from_checkpoint
        found = checkpoints(self.output_dir)
        if asked not in (None, "latest"):
            # As in diffusers' scripts, only the name counts: the checkpoint is one of this run's folder.
            path = self.output_dir / Path(asked).name
            if path not in found:
                names = ", ".join(p.name for p in found) or "none"
                raise InputError(f"resume_from_checkpoint: {path} is not a whole checkpoint; there are: {names}")
        elif found:
            path = found[-1]
        else:
            if self.is_main:
                records.cut(self.output_dir / "metrics.jsonl", 0)  # of a run killed before its first checkpoint
            self.accelerator.wait_for_everyone()
            return
        state = _state(path)
        if state["images_per_step"] != self.images_per_step:
            raise InputError(
                f"{path} was written with {state['images_per_step']} images per step, this run has "
                f"{self.images_per_step}: keep train_batch_size x gradient_accumulation_steps x processes the same"
            )
        self.accelerator.load_state(str(path))
        self.accelerator.step = 0  # accelerate's count of micro-steps: accumulation may have changed
        self.step = state["step"]
        self._pending, self._pending_steps = state["pending"], state["pending_steps"]
        self._seconds = state.get("seconds")
        self._first_gradient_checked = True
        if self._ema is not None:
            self._ema.optimization_step = self.step
        if self.is_main:
            self._clear_unfinished()
            records.cut(self.output_dir / "metrics.jsonl", self.step)
            print(f"Going on from {path}", file=sys.stderr)
        self.accelerator.wait_for_everyone()

    def _on_save(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return  # accelerate has written the shards
        weights.clear()
        if self.is_main:
            self._save_weights(Path(folder))
            if self._ema is not None:
                shadow = dict(zip(self._averaged_weights(), self._ema.shadow_params, strict=True))
                save_file({k: v.contiguous() for k, v in shadow.items()}, Path(folder, "ema.safetensors"))

    def _on_load(self, models: list[nn.Module], folder: str) -> None:
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return
        models.clear()
        self._load_weights(Path(folder))
        if self._ema is not None:
            shadow = load_file(Path(folder, "ema.safetensors"))
            for (name, live), target in zip(self._averaged_weights().items(), self._ema.shadow_params, strict=True):
                # Older versions averaged the first model alone.
                target.copy_(shadow.get(name, live) if name.startswith("model_1.") else shadow[name])

    def _save_trained(self, folder: Path) -> None:
        for i, model in enumerate(self._models):
            save_file(_trained_state(self.accelerator.unwrap_model(model)), folder / _weights_name(i))

    def _load_trained(self, folder: Path) -> None:
        for i, model in enumerate(self._models):
            load_trained_state(self.accelerator.unwrap_model(model), load_file(folder / _weights_name(i)))

    def _averaged_weights(self) -> dict[str, nn.Parameter]:
        """Trained weights of the averaged models by name, those of the second one after `model_1.` and so on."""
        prefixes = ["", *(f"model_{i}." for i in range(1, len(self._averaged)))]
        return {
            prefix + name: weight
            for prefix, model in zip(prefixes, self._averaged, strict=True)
            for name, weight in _trained(model).items()
        }

    def _owns_averaged(self, optimizer: Optimizer) -> bool:
        first = next(iter(self._averaged_weights().values()))
        return any(p is first for group in optimizer.param_groups for p in group["params"])

    def _learning_rates(self) -> Callable[[int], list]:
        """`lr_at(step)`: every parameter group with its learning rate after `step` finished steps."""
        config = self.config
        factor = get_scheduler(
            config.lr_scheduler,
            torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.learning_rate),
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=self.max_train_steps,
            num_cycles=config.lr_num_cycles,
            power=config.lr_power,
        ).lr_lambdas[0]
        scale = self.images_per_step if config.scale_lr else 1
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        peaks = [group.setdefault("initial_lr", group["lr"]) * scale for group in groups]
        return lambda step: [(group, peak * factor(step)) for group, peak in zip(groups, peaks, strict=True)]

    @contextmanager
    def _trackers(self) -> Iterator[None]:
        flat = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in vars(self.config).items()}
        self.accelerator.init_trackers(type(self.config).__name__, config=flat)
        try:
            yield
        finally:
            for tracker in self.accelerator.trackers:  # end_training() would part the processes for good
                tracker.finish()

    @contextmanager
    def _catch_signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM lets the step finish and is then acted on; a second one ends the program."""

        def note(number, frame):
            self._stop_signal = number
            signal.signal(number, previous[number])

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def require_together(accelerator: Accelerator | PartialState) -> None:
    """Raise `InputError` where a launcher started several processes that do not know of each other.

    accelerate does this with a CPU config of several processes; each would take itself for the only one.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise InputError(
            f"{started} processes were started, but accelerate runs each by itself; start several CPU processes by "
            "ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node N SCRIPT"
        )


def claim_together(
    state: Accelerator | PartialState,
    folder: Path,
    config: Any,
    may_change: Collection[str] = (),
) -> None:
    """`job.claim_folder` by one process, the others waiting."""
    require_together(state)
    if state.is_main_process:
        claim_folder(folder, config, may_change)
    state.wait_for_everyone()


def load_trained_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load trained weights into `model`, whose frozen weights are in place already.

    Raises:
        InputError: if a trained weight is missing from `state`, or `state` has one that the model lacks.
    """
    wanted = _trained_state(model).keys()
    if state.keys() != wanted:
        missing, unknown = sorted(wanted - state.keys()), sorted(state.keys() - wanted)
        raise InputError(
            f"the checkpoint does not fit the model: {len(missing)} trained weights are missing ({missing[:2]}), "
            f"{len(unknown)} are unknown ({unknown[:2]})"
        )
    model.load_state_dict(state, strict=False)


def _accelerator(config: TrainConfig) -> Accelerator:
    if config.report_to in ("wandb", "comet_ml") and importlib.util.find_spec(config.report_to) is None:
        name = config.report_to
        raise InputError(
            f"report_to is {name!r}, but {name} is not installed: pip install it, or --report_to tensorboard"
        )
    if config.use_8bit_adam and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "bitsandbytes is not installed: pip install 'dermgen[bitsandbytes]', or leave out --use_8bit_adam"
        )
    project = ProjectConfiguration(
        project_dir=config.output_dir, logging_dir=str(Path(config.output_dir, config.logging_dir))
    )
    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            mixed_precision=config.mixed_precision,
            log_with=None if config.report_to == "none" else config.report_to,
            project_config=project,
        )
    except ValueError as error:
        # accelerate refuses a precision that the device lacks.
        raise InputError(f"{error} (mixed_precision {config.mixed_precision or 'of the accelerate config'})") from error
    require_together(accelerator)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("fp16 needs a GPU, and accelerate would quietly train in float32: use bf16 or no")
    return accelerator


def versions() -> dict:
    """Of Python and the packages that decide the result, and the command line."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "argv": sys.argv,
    }


def _device_name(accelerator: Accelerator) -> str:
    """What a reader knows the device by: the GPU's name, or the processor's."""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    return f"{torch.backends.cpu.get_cpu_capability()} CPU, {torch.get_num_threads()} threads"


def _claim_folder(output_dir: Path, config: TrainConfig, accelerator: Accelerator) -> str:
    """Make the run folder, or check that it is this run's own; return the run's id."""
    provenance = output_dir / "provenance.json"
    claim_together(accelerator, output_dir, config, config.MAY_CHANGE)
    if accelerator.is_main_process and not provenance.exists():
        configs.write_json(provenance, {"run": uuid.uuid4().hex, **versions()})
    accelerator.wait_for_everyone()
    return json.loads(provenance.read_text())["run"]


def _state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / STATE_FILE).read_text())


def _average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Every process's gradients become their mean over the processes, as `DistributedDataParallel` leaves them."""
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    mean = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trained parameters and buffers: without the frozen base a LoRA checkpoint is megabytes, not gigabytes."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value.contiguous() for name, value in model.state_dict().items() if name not in frozen}


def _weights_name(i: int) -> str:
    return "model.safetensors" if i == 0 else f"model_{i}.safetensors"


def _image_ids(batch: list) -> list[str]:
    return [i for part in batch if isinstance(part, dict) for i in part.get("image_id", [])]


def _ignore_ctrl_c(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process decides when to stop


class _CollateEach:
    """Collate `(k, item of set 0, item of set 1, …)` rows into `[ks, batch of set 0, batch of set 1, …]`."""

    def __init__(self, collate_fn: Callable):
        self.collate_fn = collate_fn

    def __call__(self, rows: list[tuple]) -> list:
        ks, *sets = zip(*rows, strict=True)
        return [torch.tensor(ks), *(self.collate_fn(list(items)) for items in sets)]
