"""What publishing a model and a data set share: settings, the local folder of the repository, checks, card, upload."""

import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from dermgen import __version__
from dermgen.blocks import counted, size
from dermgen.data.origins import License, parse_license
from dermgen.data.sheets import contact_sheet
from dermgen.data.subsets import subset
from dermgen.job import claim_folder
from dermgen.publish import gates, hub, privacy
from dermgen.results.common import write
from dermgen.settings.publish import PublishConfig


@dataclass
class Publication:
    """A model or data set to be published: `files` is the local folder with the content of the repository."""

    config: PublishConfig
    target: hub.Target
    files: Path

    def mark(self, sha256: str, model: str | None = None, images: int | None = None) -> None:
        """Mark the repository as written by dermgen, see `hub.Marker`."""
        write(hub.Marker(model=model, images=images, sha256=sha256), self.files)

    def keep(self, source: Path, name: str) -> None:
        """Add a file under a name; as a hard link where possible, since weights are large."""
        target = self.files / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:
            shutil.copyfile(source, target)

    def finish(
        self, stops: Sequence[gates.Stop], card: Callable[[Sequence[gates.Stop]], str], patient_ids: Collection[str]
    ) -> str | None:
        """Check the files, write the card, and upload everything or show it; returns the URL if it was uploaded.

        Args:
            stops: failed checks so far.
            card: gives the text for all failed checks, which it lists if they were overridden.
            patient_ids: ids that must not occur anywhere.

        Raises:
            InputError: if a check fails, or the upload.
        """
        readme = self.files / "README.md"
        readme.write_text(card(stops), encoding="utf-8")
        private = gates.privacy(privacy.scan(self.files, patient_ids))
        if private:
            stops = [*stops, *private]
            readme.write_text(card(stops), encoding="utf-8")  # it says how many, never what
        if self.config.dry_run:
            print(readme.read_text(encoding="utf-8"))
            print(self.list_files())
        what = f"the {self.target.repo_type} {self.target.repo_id}"
        gates.pass_or_stop(stops, self.config.force, what)
        if self.config.dry_run:
            print(f"Nothing was uploaded. Without --dry_run, {self.files} would be sent to {self.target.url}")
            return None
        url = hub.upload(self.target, self.files, f"Published by dermgen {__version__}")
        print(f"Published {'publicly' if self.target.public else 'privately'}: {url}")
        return url

    def list_files(self) -> str:
        """The files with their sizes, one per line."""
        paths = sorted(p for p in self.files.rglob("*") if p.is_file())
        sizes = [p.stat().st_size for p in paths]
        lines = [f"{size(n):>10}  {p.relative_to(self.files).as_posix()}" for p, n in zip(paths, sizes, strict=True)]
        return "\n".join([*lines, f"{size(sum(sizes)):>10}  in {counted(len(paths), 'file')}"])


def begin(config: PublishConfig, repo_type: hub.RepoType, stops: Sequence[gates.Stop]) -> Publication:
    """Stop at failed checks, check access to the Hub, and make an empty folder for the files.

    A dry run does neither check, so that it can show what would be uploaded.

    Raises:
        InputError: if a check failed, the Hub refuses, or the folder holds something else.
    """
    target = hub.named(config.repo_id, repo_type, config.public)
    if not config.dry_run:
        gates.pass_or_stop(stops, config.force, f"the {repo_type} {target.repo_id}")
        target = hub.check(target)
    folder = Path(config.output_dir or Path("published", target.repo_id.split("/")[-1]))
    claim_folder(folder, config, anew=True)
    files = folder / "repository"
    if files.exists():
        shutil.rmtree(files)
    files.mkdir()
    return Publication(config, target, files)


def write_picture(table: pd.DataFrame, files: Path, number: int, size: int) -> str | None:
    """Write some images of a set, classes in turn, as `samples.png`; returns its name, None without images.

    Args:
        table: rows of a manifest with `path`.
        files: where the picture is written.
        number: largest number of images.
        size: largest height and width of each, in pixels.
    """
    if table.empty:
        return None
    chosen = subset(table, number, 0, "turns").sort_values("dx", kind="stable")
    pictures = [Image.open(path).convert("RGB") for path in chosen["path"]]
    captions = list(chosen["dx"]) if (chosen["dx"] != "").all() else None
    contact_sheet(pictures, files / "samples.png", 8, captions, largest=size)
    return "samples.png"


def own_license(config: PublishConfig, data: License | None) -> License | None:
    """The licence of the publication: as requested, otherwise that of the images."""
    return parse_license(config.license) if config.license else data
