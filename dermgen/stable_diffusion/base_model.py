"""The Stable Diffusion that a training starts from: how it is named, checked and loaded, and known again later."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from dermgen.builtin import NAMES, located
from dermgen.config import InputError
from dermgen.stable_diffusion.files import base_sha256, check_model, local_folder
from dermgen.stable_diffusion.pipeline import load_pipeline
from dermgen.training.run_record import RunRecord


@dataclass(frozen=True)
class BaseModel:
    """A folder or Hub id of a Stable Diffusion, and which of its files are taken.

    Attributes:
        name: a folder, Hub id, or shipped model.
        revision: of a Hub id.
        variant: of the weight files, such as fp16.
        tokenizer_name: a tokenizer in place of the model's own.
    """

    name: str
    revision: str | None = None
    variant: str | None = None
    tokenizer_name: str | None = None

    @property
    def name_or_path(self) -> str:
        """The folder or Hub id."""
        return located(self.name)

    def check(self) -> None:
        """Raise `InputError`, by small files alone, if it is something else or does not load."""
        check_model(self.name_or_path, self.variant, self.revision)

    def load(self, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
        """The pipeline on the CPU; raises `InputError` as `load_pipeline` does."""
        return load_pipeline(self.name_or_path, self.revision, self.variant, self.tokenizer_name, dtype)

    def restore(self, pipeline: StableDiffusionPipeline, *parts: str) -> None:
        """Load the named parts of a pipeline again, since rounding them cannot be undone."""
        fresh = self.load()
        pipeline.register_modules(**{part: getattr(fresh, part) for part in parts})

    def facts(self) -> dict[str, Any]:
        """What is recorded of it: its name, the hash of its weights and its folder, where it is on this machine."""
        on_hub, folder = not Path(self.name_or_path).exists(), self._folder()
        facts = {"base_model": self.name, "base_on_hub": on_hub}
        if folder is not None:
            facts |= {
                "base_sha256": base_sha256(folder, self.variant),
                "base_path": None if on_hub or self.name in NAMES else str(folder.resolve()),
            }
        return facts | {"revision": self.revision}

    def require_same(self, run_dir: Path) -> None:
        """Raise `InputError` if the run in a folder was begun with other weights."""
        folder = self._folder()
        known = RunRecord.read(run_dir).base_sha256
        if folder is not None and known is not None and known != base_sha256(folder, self.variant):
            raise InputError(
                f"{run_dir} was trained from another model than {folder.resolve()} holds now: put that one back, or "
                "choose a new output_dir"
            )

    def _folder(self) -> Path | None:
        return local_folder(self.name_or_path, self.revision, self.variant)
