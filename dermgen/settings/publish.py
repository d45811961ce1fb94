"""Settings of `dermgen publish model` and `publish dataset`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import InputError, option, require_at_least, require_seed
from dermgen.data.origins import parse_license


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Settings of both kinds of publication."""

    repo_id: str = option(None, "repository on the Hub, org/name; a name alone is one of your own")
    output_dir: str | None = option(None, "where what is sent is put together; default published/NAME")
    evidence: list[str] | None = option(None, "folders of audit, scores and studies, or folders that hold such")
    data_license: str | None = option(None, "licence of the images, where their manifest does not tell")
    license: str | None = option(
        None, "licence of what is published; default the one that the images' licences ask for"
    )
    card_template: str | None = option(None, "a Jinja template in place of the one in model_cards/")
    dry_run: bool = option(False, "put together what would be sent and show the card; send nothing")
    public: bool = option(False, "for everybody to see; default private")
    force: str | None = option(None, "publish although gates are shut; the reason goes into the card")

    def __post_init__(self):
        if not self.repo_id:
            raise InputError("--repo_id is needed: the repository on the Hub, like org/name")
        if self.force is not None and len(self.force.split()) < 2:
            raise InputError(f"--force needs a reason in words, which goes into the card; got {self.force!r}")
        for name in ("license", "data_license"):
            if getattr(self, name) is not None and parse_license(getattr(self, name)) is None:
                raise InputError(f"--{name} is empty")


@dataclass(frozen=True, kw_only=True)
class PublishModelConfig(PublishConfig):
    """Publish a finished run: adapters, a pipeline, a model trained from scratch, a classifier."""

    run: str = option(None, "the run's folder")
    base_license: str | None = option(None, "licence of the base model, where it is on the Hub and not well known")
    weights: Literal["last", "best"] = option("last", "of a model trained from scratch: best is by its validations")

    def __post_init__(self):
        if not self.run:
            raise InputError("publish model needs a run: dermgen publish model RUN --repo_id org/name")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class PublishDatasetConfig(PublishConfig):
    """Publish a synthetic set, with real images beside it where their licence allows."""

    data_dir: str = option(None, "manifest folder of synthetic images: of generate, filter or audit")
    dropped_too: bool = option(False, "also images that `dermgen filter` dropped")
    without_copies: bool = option(False, "leave out images that the audit calls copies of training images")
    include_real: str | None = option(None, "manifest folder of real images to publish as well, split as they are")
    synthetic_ratio: float = option(
        1.0, "with --include_real: synthetic images per real training image of a class; 1 is 50/50"
    )
    format: Literal["auto", "parquet", "webdataset"] = option("auto", "auto is parquet below 10 GiB of images")
    max_shard_size: int = option(400, "largest size of a shard, in MiB")
    seed: int = option(0, "of the choice of synthetic images beside real ones")

    def __post_init__(self):
        require_seed(self.seed)
        if not self.data_dir:
            raise InputError("publish dataset needs a folder: dermgen publish dataset DIR --repo_id org/name")
        super().__post_init__()
        require_at_least(1, max_shard_size=self.max_shard_size)
        require_at_least(0, synthetic_ratio=self.synthetic_ratio)
