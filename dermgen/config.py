"""Settings: one frozen dataclass per command, filled from a YAML recipe and command-line flags."""

import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml

Config = TypeVar("Config")


class InputError(ValueError):
    """A mistake in what the user gave: one sentence that says what was expected, what came and what to do."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Within the block an `InputError` ends the program with one line on stderr and exit status 2."""
    try:
        yield
    except InputError as error:
        rank = os.environ.get("RANK", "0")
        print(f"error{f' (process {rank})' if rank != '0' else ''}: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def option(default: Any, help: str, **flag: Any) -> Any:
    """A dataclass field whose help text is also the command-line help; `flag` goes to argparse's `add_argument`."""
    return dataclasses.field(default=default, metadata={"help": help, **flag})


def parse(config_cls: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Read `--config recipe.yaml` first, then let the other flags override it.

    A recipe is turned into flags, so one parser checks both: an unknown key, a wrong type or a value outside a
    `Literal` is an error, and a recipe cannot hold what the command line could not say.

    Raises:
        InputError: for an unreadable recipe, an unknown key or flag, or a value that the config refuses.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message):
            raise InputError(f"{message}; --help lists all options")

    argv = list(sys.argv[1:] if argv is None else argv)
    names = [field.name for field in dataclasses.fields(config_cls)]
    parser = Parser(config_cls, allow_abbrev=False, description=config_cls.__doc__)
    parser.add_argument("--config", metavar="RECIPE", help="a YAML file of these options; flags override it")
    if "--config" in argv:
        at = argv.index("--config")
        if at + 1 == len(argv):
            raise InputError("--config needs the path of a YAML recipe")
        argv = _recipe_flags(Path(argv[at + 1]), names) + argv[:at] + argv[at + 2 :]
    config, _, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        # Never what follows: it may be a secret.
        name = unknown[0].split("=")[0]
        raise InputError(f"unknown option {name!r}{_closest(name.lstrip('-'), names)}")
    return config


def save(config: Any, path: Path) -> None:
    """Write `config` as YAML that `parse(type(config), ["--config", path])` reads back."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON (a NaN is an error), whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(partial, path)


def claim_folder(folder: Path, config: Any, may_change: Collection[str] = (), leftovers: Collection[str] = ()) -> None:
    """Make `folder` the place of a job with these settings, kept in its `config.yaml`; a job goes on in its own folder.

    Args:
        folder: made if it is missing.
        config: the dataclass of settings.
        may_change: settings that do not matter for going on.
        leftovers: names of files that a job killed at its start may have left.

    Raises:
        InputError: if the folder belongs to a job with other settings, or to something else.
    """
    path = folder / "config.yaml"
    if path.exists():
        saved, now = yaml.safe_load(path.read_text()) or {}, dataclasses.asdict(config)
        changed = [k for k in sorted(saved.keys() | now.keys()) if saved.get(k) != now.get(k) and k not in may_change]
        if changed:
            told = ", ".join(f"{k} was {saved.get(k)!r} and is {now.get(k)!r}" for k in changed[:5])
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise InputError(
                f"{folder} was made with other settings ({told}{more}): "
                "choose a new output_dir, or give the old settings to go on there"
            )
    elif folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose a folder")
    elif folder.exists() and any(not p.name.startswith(".") and p.name not in leftovers for p in folder.iterdir()):
        raise InputError(f"{folder} has files in it that are not dermgen's: choose a new output_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(config, path)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): choose another output_dir") from error


def _recipe_flags(path: Path, names: Sequence[str]) -> list[str]:
    try:
        recipe = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the recipe {path}: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path} must hold `option: value` lines, got {type(recipe).__name__}")
    flags = []
    for key, value in recipe.items():
        if key not in names:
            raise InputError(f"{path}: unknown key {key!r}{_closest(str(key), names)}")
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def _closest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; --help lists all options"


LrScheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training method needs. Batch sizes are per process; steps are optimizer steps."""

    # What a resumed run may change: it decides how long, how often and where, never what the k-th image does.
    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        "output_dir max_train_steps num_train_epochs train_batch_size gradient_accumulation_steps checkpointing_steps "
        "checkpoints_total_limit resume_from_checkpoint logging_steps logging_dir report_to dataloader_num_workers "
        "mixed_precision torch_compile allow_tf32 enable_xformers_memory_efficient_attention local_rank push_to_hub "
        "hub_model_id hub_force".split()
    )

    output_dir: str = option("run", "the run folder: config, checkpoints, logs, samples and the final weights")
    seed: int = option(0, "seeds the weights, the data order, the noise and the samples")
    train_batch_size: int = option(4, "images per process and forward pass")
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step")
    max_train_steps: int | None = option(None, "optimizer steps; overrides num_train_epochs")
    num_train_epochs: int = option(1, "passes over the data, where max_train_steps is not given")
    learning_rate: float = option(1e-4, "peak learning rate")
    scale_lr: bool = option(False, "multiply the learning rate by batch size x accumulation x processes")
    lr_scheduler: LrScheduler = option("constant", "learning-rate schedule, by diffusers' names")
    lr_warmup_steps: int = option(500, "optimizer steps of linear warm-up; 'constant' has none")
    lr_num_cycles: int = option(1, "hard restarts of 'cosine_with_restarts'")
    lr_power: float = option(1.0, "power of 'polynomial'")
    adam_beta1: float = option(0.9, "AdamW's decay of the first moment")
    adam_beta2: float = option(0.999, "AdamW's decay of the second moment")
    adam_weight_decay: float = option(1e-2, "AdamW's decoupled weight decay")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon")
    use_8bit_adam: bool = option(False, "AdamW with 8-bit moments from bitsandbytes")
    max_grad_norm: float = option(1.0, "clip the gradient norm to this")
    ema_decay: float = option(0.0, "decay of the exponential moving average of the weights; 0 disables it")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(None, "overrides the accelerate config")
    allow_tf32: bool = option(False, "TF32 matrix products on Ampere and later GPUs")
    torch_compile: bool = option(False, "compile the trained networks with torch.compile")
    checkpointing_steps: int = option(500, "optimizer steps between checkpoints; the last step always has one")
    checkpoints_total_limit: int | None = option(None, "keep this many newest checkpoints of the run; default all")
    resume_from_checkpoint: str | None = option(
        None, "'latest' or a checkpoint folder; a run folder with checkpoints goes on from the last one in any case"
    )
    logging_steps: int = option(10, "optimizer steps between two lines of metrics.jsonl, each their mean")
    logging_dir: str = option("logs", "tracker files, inside output_dir")
    report_to: str = option("tensorboard", "tensorboard, wandb, comet_ml, all or none")
    dataloader_num_workers: int = option(0, "data loading processes per training process")
    push_to_hub: bool = option(False, "publish the run when training is done, privately")
    hub_model_id: str | None = option(None, "repository to publish to; default the name of output_dir")
    hub_force: str | None = option(None, "why it is published before anybody looked for copies; goes into the card")
    local_rank: int = option(-1, "accepted for old launchers; the environment decides")

    def __post_init__(self):
        for (
            name
        ) in "train_batch_size gradient_accumulation_steps num_train_epochs checkpointing_steps logging_steps".split():
            require_at_least(1, **{name: getattr(self, name)})
        for name in "max_train_steps checkpoints_total_limit".split():
            if getattr(self, name) is not None:
                require_at_least(1, **{name: getattr(self, name)})
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        require_at_least(0, learning_rate=self.learning_rate, lr_warmup_steps=self.lr_warmup_steps)
        if self.hub_force is not None and len(self.hub_force.split()) < 2:
            raise InputError(f"--hub_force needs a reason in words, which goes into the card; got {self.hub_force!r}")
        if self.max_grad_norm <= 0:
            raise InputError(f"max_grad_norm must be above 0, got {self.max_grad_norm}")


def require_at_least(lowest: float, **values: float) -> None:
    """Raise `InputError` for the first of the named `values` below `lowest`."""
    for name, value in values.items():
        if value < lowest:
            raise InputError(f"{name} must be at least {lowest}, got {value}")


def require_given(config: Any, *names: str) -> None:
    """Raise `InputError` for the first of the named settings that is not given, with what it is."""
    for field in dataclasses.fields(config):
        if field.name in names and not getattr(config, field.name):
            raise InputError(f"--{field.name} is needed: {field.metadata['help']}")
