"""`dermgen train`: a recipe's training, checked before torch is imported, then launched through accelerate.

This process becomes the training, or the launcher of several: signals and exit status need no passing on.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dermgen import recipes
from dermgen.blocks import counted
from dermgen.config import InputError, read_yaml
from dermgen.installation import gpus
from dermgen.recipes import STUDY, Recipe
from dermgen.settings.launch import LaunchConfig


def train(config: LaunchConfig, flags: Sequence[str]) -> NoReturn:
    """Launch the training of a recipe, in the place of this process.

    Args:
        config: the recipe, and how it is launched.
        flags: options of the recipe's method.

    Raises:
        InputError: for a mistake in either, or for what this machine lacks.
    """
    recipe = recipes.read(config.recipe, config.method, flags)
    num_gpus = len(gpus())
    path = _launch_file(config, num_gpus)
    launch = read_yaml(path, "the launch config")
    if not isinstance(launch, dict):
        raise InputError(f"{path} is not a config of accelerate: `accelerate config` writes one")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = check(config, recipe, launch, num_gpus, cores)
    if recipe.method == STUDY:
        training = ["dermgen.cli", STUDY, "--config", str(recipe.path), *flags]
    else:
        method = ["--method", recipe.method]
        training = ["dermgen.publish.after_training", *method, "--config", str(recipe.path), *flags]
    if launch.get("use_cpu") and processes > 1:
        _several_on_cpus(processes, cores, launch, training)
    options = ["--quiet", "--config_file", str(path), *_options(config), "-m", *training]
    if processes > 1 or _names_gpus_of_several(launch):
        os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *options])
    _one_process(options)


def check(config: LaunchConfig, recipe: Recipe, launch: dict[str, Any], num_gpus: int, cores: int) -> int:
    """The number of processes, on all machines together, if this machine can run the recipe with them.

    Args:
        config: what the command line asks for.
        recipe: that is to be trained.
        launch: accelerate's config.
        num_gpus: of this machine.
        cores: of this machine that this process may use.

    Raises:
        InputError: if it cannot.
    """
    on_cpu = bool(launch.get("use_cpu"))
    machines = config.num_machines or launch.get("num_machines") or 1
    processes = config.num_processes or launch.get("num_processes") or 1
    here = -(-processes // machines)
    if not on_cpu and not num_gpus and (_names_gpus_of_several(launch) or launch.get("gpu_ids")):
        raise InputError("the launch config is for GPUs, and this machine has none: --launch_config cpu")
    _require_gpu(recipe, on_cpu or not num_gpus, config.launch_config is not None)
    if on_cpu and machines > 1:
        raise InputError("several machines train on their GPUs only: --num_machines 1, or --launch_config multi_node")
    if on_cpu and processes > cores:
        raise InputError(
            f"{processes} processes need as many cores, and this machine has {cores}: lower --num_processes"
        )
    if not on_cpu and processes > 1 and not _names_gpus_of_several(launch):
        raise InputError(
            f"the launch config is for 1 process, and {processes} are asked for: --launch_config multi_gpu, or cpu"
        )
    if not on_cpu and here > max(num_gpus, 1):
        raise InputError(
            f"{processes} processes on {counted(machines, 'machine')} need {counted(here, 'GPU')} on each, and this "
            f"one has {num_gpus}: set --num_processes"
        )
    return processes


def _require_gpu(recipe: Recipe, on_cpu: bool, chosen: bool) -> None:
    """Refuse a CPU to a recipe for GPUs; `chosen` says that the user chose the launch config."""
    if not on_cpu:
        return
    settings = vars(recipe.settings)
    if settings.get("mixed_precision") == "fp16":
        raise InputError(f"{recipe.name} trains in fp16, which needs a GPU: --mixed_precision no")
    if settings.get("enable_xformers_memory_efficient_attention"):
        off = "--enable_xformers_memory_efficient_attention false"
        raise InputError(f"{recipe.name} asks for xformers, which needs a GPU: {off}")
    if chosen:
        return
    if settings.get("mixed_precision") == "bf16":
        raise InputError(f"{recipe.name} trains in bf16, and this machine has no GPU: --mixed_precision no")
    if recipe.gpu_memory is not None:
        gpu = f"a GPU with {recipe.gpu_memory} GB" if recipe.gpu_memory else "a GPU"
        raise InputError(
            f"{recipe.name} is for {gpu}, and this machine has none: choose one for CPUs from `dermgen recipes`, or "
            "add --launch_config cpu to train it slowly"
        )


def _launch_file(config: LaunchConfig, num_gpus: int) -> Path:
    """The accelerate config that is asked for by name or path, or what suits the machine."""
    known = recipes.launch_configs()
    asked = config.launch_config
    if asked is None:
        several = (config.num_processes or 1) > 1
        return known["multi_gpu" if num_gpus and several else "single_gpu" if num_gpus else "cpu"]
    if not Path(asked).is_file() and asked not in known:
        raise InputError(f"no such launch config: {asked}: give {', '.join(known)} or the path of an accelerate config")
    return known.get(asked, Path(asked))


def _names_gpus_of_several(launch: dict[str, Any]) -> bool:
    """Whether accelerate starts a process for each of several devices."""
    return launch.get("distributed_type", "NO") not in ("NO", "MULTI_CPU")


def _options(config: LaunchConfig) -> list[str]:
    """Flags of `accelerate launch` for what is given."""
    names = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
    given = {name: getattr(config, name) for name in names}
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def _several_on_cpus(processes: int, cores: int, launch: dict[str, Any], training: Sequence[str]) -> NoReturn:
    """Become torch's launcher, since accelerate's starts CPU processes that do not know of each other."""
    precision = launch.get("mixed_precision") or "no"
    os.environ |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": precision}
    os.environ.setdefault("OMP_NUM_THREADS", str(cores // processes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    os.execv(sys.executable, [*command, "-m", *training])


def _one_process(options: Sequence[str]) -> NoReturn:
    """Become the process that `accelerate launch` would start and wait for, with the environment that it would have."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import prepare_simple_launcher_cmd_env

    args = launch_command_parser().parse_args(options)
    command, environment = prepare_simple_launcher_cmd_env(_validate_launch_command(args)[0])
    sys.stdout.flush()
    os.execve(command[0], command, environment)
