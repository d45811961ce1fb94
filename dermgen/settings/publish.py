"""Settings of `dermgen publish model` and `publish dataset`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import SEEDS, InputError, check, option
from dermgen.data.origins import parse_license


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Settings of both kinds of publication."""

    repo_id: str = option(None, "repository on the Hub, org/name; a bare name is under your account", required=True)
    output_dir: str | None = option(None, "folder in which the upload is assembled; default published/NAME")
    evidence: list[str] | None = option(None, "folders of audits, scores and studies, or their parent folders")
    data_license: str | None = option(None, "licence of the images, if their manifest does not state it")
    license: str | None = option(None, "licence of the publication; default the one that the images' licences require")
    card_template: str | None = option(None, "Jinja template of the card, instead of the one in model_cards/")
    dry_run: bool = option(False, "assemble the upload and show its card, but send nothing")
    public: bool = option(False, "publish in a public repository; default private")
    force: str | None = option(None, "why to publish despite failed safety checks; printed on the card", in_words=True)

    def __post_init__(self):
        check(self)
        for name in ("license", "data_license"):
            if getattr(self, name) is not None and parse_license(getattr(self, name)) is None:
                raise InputError(f"--{name} is empty: give a licence, or leave it out")


@dataclass(frozen=True, kw_only=True)
class PublishModelConfig(PublishConfig):
    """Publish a finished run: adapters, a pipeline, a model trained from scratch, a classifier.

    `dermgen publish model RUN --repo_id org/name`
    """

    run: str = option(None, "folder of the run", required=True, positional=True)
    base_license: str | None = option(
        None, "licence of the base model, if it is on the Hub and its licence is not known"
    )
    weights: Literal["last", "best"] = option(
        "last", "weights of a model trained from scratch: the last, or the best in validation"
    )


@dataclass(frozen=True, kw_only=True)
class PublishDatasetConfig(PublishConfig):
    """Publish a synthetic set, with real images beside it if their licence allows.

    `dermgen publish dataset DIR --repo_id org/name`
    """

    data_dir: str = option(
        None, "manifest folder of synthetic images: of generate, filter or audit", required=True, positional=True
    )
    dropped_too: bool = option(False, "include images that `dermgen filter` dropped")
    without_copies: bool = option(False, "leave out images that the audit calls copies of training images")
    include_real: str | None = option(None, "manifest folder of real images to publish as well, with their splits")
    synthetic_ratio: float = option(
        1.0, "with --include_real, synthetic images per real training image of a class; 1 is 50/50", at_least=0
    )
    format: Literal["auto", "parquet", "webdataset"] = option(
        "auto", "format of the shards; auto is parquet below 10 GiB of images"
    )
    max_shard_size: int = option(400, "largest size of a shard, in MiB", at_least=1)
    seed: int = option(0, "seed of the choice of synthetic images beside real ones", within=SEEDS)
