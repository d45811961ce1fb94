"""What a training script does: it trains, and then writes a card into the run's folder and obeys `--push_to_hub`.

Cards and the Hub are imported where they are needed: with pandas they take 90 MiB, which a training can do without.
"""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dermgen.config import InputError, parse, whole_file
from dermgen.job import user_errors
from dermgen.settings.methods import METHODS, Method
from dermgen.settings.publish import PublishModelConfig
from dermgen.settings.training import TrainConfig

if TYPE_CHECKING:
    from dermgen.data.trained_on import TrainedOn


def train_and_finish(name: str) -> None:
    """Run the training script of that name in `METHODS`; a mistake of the user ends it with one line."""
    with user_errors():
        method = METHODS[name]
        config = parse(method.settings)
        if config.method not in (None, name):
            raise InputError(f"the recipe is for {config.method}, not for {name}: use `dermgen train RECIPE`")
        config = replace(config, method=name)  # so that the run's config.yaml is a recipe that says what it is for
        train = method.load().train
        check_upload(config, method)
        train(config)
        finish(config)


def check_upload(config: TrainConfig, method: Method) -> None:
    """Where the run is to be uploaded, find out before the training whether it can be, and make the repository.

    Args:
        config: of the run.
        method: of it. Nobody can have audited the images of a model that generates before it is trained, so
            `hub_force` must say why it is uploaded all the same.

    Raises:
        InputError: without a token, the right to write there, or a reason.
    """
    if not config.push_to_hub:
        return
    from dermgen.publish import gates, hub
    from dermgen.publish.evidence import Evidence

    target = hub.check(hub.named(_repo_id(config), "model"))
    how = "without --push_to_hub, then dermgen generate, dermgen audit and dermgen publish model RUN --evidence AUDIT"
    stops = gates.of_model(*_will_be_trained_on(config, method), Evidence(), how if method.generates else None)
    gates.pass_or_stop(stops, config.hub_force, f"the model {target.repo_id}", "--hub_force")
    hub.create(target)


def finish(config: TrainConfig) -> None:
    """Write the run's card, and upload the run where the config asks for it; one process does it.

    Raises:
        InputError: if the upload fails; the run is whole on disk, and the message says how to send it.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    from dermgen.publish.described import describe
    from dermgen.publish.model import publish_model, render_card

    run = Path(config.output_dir)
    with whole_file(run / "README.md") as partial:
        partial.write_text(render_card(describe(run), run.name), encoding="utf-8")
    if not config.push_to_hub:
        return
    repo_id = _repo_id(config)
    try:
        publish_model(
            PublishModelConfig(run=str(run), repo_id=repo_id, force=config.hub_force, output_dir=str(run / "published"))
        )
    except InputError as error:
        command = ["dermgen", "publish", "model", str(run), "--repo_id", repo_id]
        command += ["--force", config.hub_force] if config.hub_force else []
        raise InputError(
            f"{error}\nThe training is done and {run} is whole; send it with\n  {shlex.join(command)}"
        ) from error


def _will_be_trained_on(config: TrainConfig, method: Method) -> "tuple[TrainedOn, str | None]":
    """What the run will be trained on, and the base model on the Hub whose weights its own will contain."""
    from dermgen.data.set_facts import SetFacts
    from dermgen.data.trained_on import TrainedOn

    settings = vars(config)
    folders = [settings.get(name) for name in ("data_dir", "data_dir_b", "synthetic_dir")]
    data = [SetFacts.of(folder) for folder in folders if folder] or [SetFacts.of_plain_folder(0)]
    base = config.base_model
    base_data = TrainedOn.read(base).all_data if base else []
    leaky = any(entry.leaky for entry in (*data, *base_data))
    sent = base if base and method.holds_base and not Path(base).exists() else None
    return TrainedOn(data=tuple(data), base_data=tuple(base_data), leaky=leaky), sent


def _repo_id(config: TrainConfig) -> str:
    return config.hub_model_id or Path(config.output_dir).name


if __name__ == "__main__":  # as `dermgen train` launches it: --method NAME and the flags of its script
    train_and_finish(sys.argv[2])
