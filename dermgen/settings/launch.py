"""Settings of `dermgen train` itself: which recipe, and how its processes are launched."""

from dataclasses import dataclass

from dermgen.config import check, option
from dermgen.settings.methods import RECIPES


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Train a recipe through accelerate. `dermgen train RECIPE [flags]`

    Further flags are options of the recipe and override it: `dermgen train RECIPE --help` lists them.
    """

    recipe: str = option(
        None, "a file, or a name of `dermgen recipes`", required=True, positional=True, also="--config"
    )
    method: str | None = option(
        None, "training method of the recipe; default what it says, or its file name begins with", choices=list(RECIPES)
    )
    launch_config: str | None = option(
        None,
        "cpu, single_gpu, multi_gpu, multi_node, fsdp, or an accelerate config file; default single_gpu where there is "
        "a CUDA device, multi_gpu for several processes there, else cpu",
    )
    num_processes: int | None = option(
        None, "processes on all machines together; default that of the launch config, 1 where none is given", at_least=1
    )
    num_machines: int | None = option(None, "number of machines; default that of the launch config", at_least=1)
    machine_rank: int | None = option(None, "which of several machines this one is, from 0", at_least=0)
    main_process_ip: str | None = option(None, "address of machine 0; default that of the launch config")
    main_process_port: int | None = option(None, "port of machine 0; default that of the launch config", at_least=1)

    __post_init__ = check
