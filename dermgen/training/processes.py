"""The processes of a run: the accelerator, what only one of them does, and their mean gradient."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import ProjectConfiguration
from torch import nn

from dermgen.config import InputError
from dermgen.job import claim_folder
from dermgen.settings.training import TrainConfig


def accelerator_for(config: TrainConfig) -> Accelerator:
    """The accelerator with the config's precision, accumulation and trackers.

    Raises:
        InputError: if a package, a precision or the connection between processes is missing.
    """
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


def require_together(accelerator: Accelerator | PartialState) -> None:
    """Raise `InputError` if a launcher started several processes that are not connected.

    accelerate does this with a CPU config of several processes; each would train as if it were the only one.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise InputError(
            f"{started} processes were started, but accelerate runs each by itself; start several CPU processes by "
            "dermgen train RECIPE --launch_config cpu --num_processes N, or "
            "ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node N SCRIPT"
        )


def claim_together(state: Accelerator | PartialState, folder: Path, config: Any) -> None:
    """`job.claim_folder` by one process, the others waiting."""
    require_together(state)
    if state.is_main_process:
        claim_folder(folder, config)
    state.wait_for_everyone()


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Replace every process's gradients by their mean over the processes, as `DistributedDataParallel` does."""
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    mean = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def device_name(accelerator: Accelerator) -> str:
    """The name of the GPU, or the instruction set of the CPU and the number of threads."""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    return f"{torch.backends.cpu.get_cpu_capability()} CPU, {torch.get_num_threads()} threads"
