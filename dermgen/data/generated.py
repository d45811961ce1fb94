"""How a set of synthetic images was generated, as `dermgen generate` records it beside them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dermgen.config import write_json
from dermgen.data.trained_on import TrainedOn
from dermgen.job import saved_settings

VIEWS_DEEP = 4  # a view of a view, and so on: as far as a set is followed to its images


@dataclass(frozen=True)
class Generated:
    """What is known of the images of one folder.

    Attributes:
        model_sha256: of the weights that generated them; "" for a model on the Hub.
        trained_on: what those were trained on.
        python: its version.
        packages: the version of each package that decides the result.
        argv: the command line.
        seed: of the first image; read from the folder's settings.
    """

    model_sha256: str = ""
    trained_on: TrainedOn = field(default_factory=TrainedOn)
    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    argv: Sequence[str] = ()
    seed: int | None = None

    @classmethod
    def read(cls, folder: str | Path, models: Collection[str]) -> "Generated":
        """Of the images in a folder, or of those that the view of a filter or audit shows.

        Args:
            folder: of the synthetic set.
            models: values of `model_sha256` in its table. A record of other weights is not about these images.
        """
        folder = Path(folder)
        for _ in range(VIEWS_DEEP):
            settings = saved_settings(folder)
            if "synthetic" not in settings:
                break
            folder = Path(settings["synthetic"])
        path = folder / "provenance.json"
        facts = json.loads(path.read_text()) if path.exists() else {}
        if "learnt" not in facts or set(models) != {facts["model_sha256"]}:
            return cls()
        return cls(
            facts["model_sha256"],
            TrainedOn.from_json(facts),
            facts.get("python", ""),
            facts.get("packages", {}),
            facts.get("argv", []),
            settings.get("seed"),
        )

    def write(self, folder: Path) -> None:
        """Write `provenance.json`."""
        facts: dict[str, Any] = {"python": self.python, "packages": self.packages, "argv": self.argv}
        write_json(folder / "provenance.json", facts | {"model_sha256": self.model_sha256} | self.trained_on.to_json())
