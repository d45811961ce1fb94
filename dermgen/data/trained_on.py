"""What a model was trained on: the images by id and content, what binds them, and the same of its base model.

A run keeps it in `training_set.csv`, `base_training_set.csv`, and the keys `data`, `base_data` and `leaky` of its
`provenance.json`. `dermgen generate` records it again beside the images. Nothing here needs pandas, which takes 90 MiB
that a training on a plain folder can do without.
"""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermgen.config import InputError, whole_file, write_json
from dermgen.data.cache import hash_file
from dermgen.data.set_facts import SetFacts
from dermgen.job import saved_settings

if TYPE_CHECKING:
    from accelerate import Accelerator

OWN, BASE, FACTS = "training_set.csv", "base_training_set.csv", "provenance.json"
COLUMNS = ["image_id", "dx", "synthetic", "times", "sha256"]


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on.

    Attributes:
        sha256: of the files of the real images, the base model's among them; None if they were not recorded.
        image_ids: of all images, the base model's among them; None if they were not recorded.
        data: facts of the images, one entry a manifest.
        base_data: the same of the base model's images, where that is recorded.
        leaky: whether any of the data was split by image.
        manifests: their folders on the machine of the training.
    """

    sha256: frozenset[str] | None = None
    image_ids: frozenset[str] | None = None
    data: tuple[SetFacts, ...] = ()
    base_data: tuple[SetFacts, ...] = ()
    leaky: bool = False
    manifests: tuple[str, ...] = ()

    @classmethod
    def read(cls, run: str | Path) -> "TrainedOn":
        """Of the run in a folder, or of a file in it; all is unknown where nothing was recorded."""
        folder = Path(run).parent if Path(run).is_file() else Path(run)
        settings = saved_settings(folder)
        facts = json.loads((folder / FACTS).read_text()) if (folder / FACTS).exists() else {}
        data, base_data = _data_of(facts)
        recorded = (folder / OWN).exists()
        rows = [*_rows(folder / OWN), *_rows(folder / BASE)]
        real = frozenset(row["sha256"] for row in rows if row["synthetic"] != "true")
        return cls(
            real if recorded and "data" in facts else None,
            frozenset(row["image_id"] for row in rows) if recorded else None,
            data,
            base_data,
            bool(facts.get("leaky")) or any(entry.leaky for entry in (*data, *base_data)),
            tuple(settings[name] for name in ("data_dir", "data_dir_b") if settings.get(name)),
        )

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "TrainedOn":
        """Reverses `to_json`; what it does not hold is unknown."""
        hashes = facts.get("learnt")
        return cls(
            None if hashes is None else frozenset(hashes),
            None,
            *_data_of(facts),
            bool(facts.get("leaky")),
            tuple(facts.get("manifests", ())),
        )

    @classmethod
    def ids(cls, run: str | Path) -> frozenset[str]:
        """Ids of all images that the run in a folder was trained on; `InputError` if they were not recorded."""
        found = cls.read(run).image_ids
        if found is None:
            raise InputError(f"{run} has no {OWN}, so nobody can tell whether it was trained on held-out images")
        return found

    def to_json(self) -> dict[str, Any]:
        """What is recorded beside images that the model generates."""
        return {
            "learnt": None if self.sha256 is None else sorted(self.sha256),
            "data": [entry.to_json() for entry in self.data],
            "base_data": [entry.to_json() for entry in self.base_data],
            "leaky": self.leaky,
            "manifests": list(self.manifests),
        }

    @property
    def all_data(self) -> list[SetFacts]:
        """Of its own images and of the base model's, all of which bind what is made of it."""
        return [*self.data, *self.base_data]

    @property
    def licenses(self) -> list[str]:
        """Of all of them, as the manifests spell them; "" where one is unknown."""
        return [text for entry in self.all_data for text in entry.licenses]


def write(
    run_dir: Path,
    accelerator: "Accelerator",
    rows: Sequence[Mapping[str, str]],
    data: Sequence[SetFacts],
    base_model: str | None = None,
) -> dict[str, str]:
    """Record what a run trains on, or refuse to resume it with other images.

    Args:
        run_dir: its folder, with `provenance.json`.
        accelerator: one process writes, the others wait.
        rows: `image_id`, `dx`, `synthetic` and `path` of each image; one that is drawn twice as often occurs twice.
        data: their facts, one entry a manifest.
        base_model: where the weights come from that the run starts with; the record of a dermgen run is kept too.

    Returns:
        SHA-256 of each image's file, by image id.

    Raises:
        InputError: if the run was begun with other images, by their ids, classes or bytes.
    """
    # A synthetic image may have the id of the real one that it was made from.
    times = Counter((row["image_id"], row["dx"], row["synthetic"], row["path"]) for row in rows)
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(hash_file, [path for *_, path in times]))
    table = [[*image[:3], str(n), sha256] for (image, n), sha256 in zip(times.items(), hashes, strict=True)]
    own, hash_of = run_dir / OWN, {row[0]: row[-1] for row in table}
    # Earlier versions gave a synthetic and a real image of one id the hash of the second.
    accepted = ([], table, [[*row[:-1], hash_of[row[0]]] for row in table])
    if [list(row.values()) for row in _rows(own)] not in accepted:
        raise InputError(
            f"{run_dir} was trained on other images, as its {OWN} shows: choose a new output_dir "
            "(earlier versions chose other images for --max_images_per_class and --num_instance_images)"
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if not own.exists():
            _write_rows(own, table)
        recorded = json.loads((run_dir / FACTS).read_text())
        base = TrainedOn()
        if base_model is not None:
            base = TrainedOn.read(base_model)
            # The autoencoder of a small base model is itself trained on most of the same images.
            once: dict[tuple[str, str], list[str]] = {}
            for row in (*_rows(Path(base_model, OWN)), *_rows(Path(base_model, BASE))):
                once.setdefault((row["image_id"], row["sha256"]), [row[name] for name in COLUMNS])
            if once:
                _write_rows(run_dir / BASE, list(once.values()))
        facts = {
            "leaky": any(entry.leaky for entry in data),
            "data": [entry.to_json() for entry in data],
            # A base model whose record was lost since the run was begun binds it all the same.
            "base_data": _distinct([entry.to_json() for entry in base.all_data]) or recorded.get("base_data", []),
        }
        write_json(run_dir / FACTS, recorded | facts)
    accelerator.wait_for_everyone()
    return hash_of


def _distinct(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each entry once, in order."""
    return [entry for i, entry in enumerate(entries) if entry not in entries[:i]]


def pass_on(run_dir: Path, folder: Path) -> None:
    """Copy the record of a run to the folder of a model that is made of its weights."""
    for name in (OWN, BASE, FACTS):
        if (run_dir / name).exists():
            shutil.copyfile(run_dir / name, folder / name)


def _data_of(facts: Mapping[str, Any]) -> list[tuple[SetFacts, ...]]:
    """Of the model, and of its base model."""
    return [tuple(map(SetFacts.from_json, facts.get(name, ()))) for name in ("data", "base_data")]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
