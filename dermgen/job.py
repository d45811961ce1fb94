"""A job: the folder that belongs to its settings, and how it ends where the user made a mistake."""

import dataclasses
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dermgen.config import InputError, foreign_options, read_yaml, rules_of, save

# Of errors that a disk gives, whichever library meets them.
_DISK_ERRORS = {errno.ENOSPC: "no space is left", errno.EDQUOT: "the quota is used up", errno.EROFS: "it is read-only"}
# Folders that this process has made its own, and the files that a job writes there before it makes anything.
_claimed: list[tuple[Path, bool]] = []  # and whether the folder was there before
_AT_THE_START = frozenset("config.yaml provenance.json training_set.csv base_training_set.csv .plan".split())


@contextmanager
def user_errors() -> Iterator[None]:
    """Within the block an `InputError`, or a disk that takes no more, ends the program with one line and status 2."""
    earlier = len(_claimed)
    try:
        yield
    except Exception as error:
        _release_claims(earlier)
        sentence = str(error) if isinstance(error, InputError) else _disk_error(error)
        if sentence is None:
            raise
        rank = os.environ.get("RANK", "0")
        print(f"error{f' (process {rank})' if rank != '0' else ''}: {sentence}", file=sys.stderr, flush=True)
        sys.exit(2)


def _disk_error(error: BaseException | None) -> str | None:
    """What to do where `error`, or what caused it, came from a full or read-only disk; None for another error."""
    while error is not None:
        # Libraries in Rust put the number into their message.
        number = (
            error.errno if isinstance(error, OSError) else int((re.findall(r"os error (\d+)", str(error)) or [0])[0])
        )
        if number in _DISK_ERRORS:
            name = getattr(error, "filename", None)
            where = f"cannot write {name}" if name else "cannot write to the disk"
            return (
                f"{where}: {_DISK_ERRORS[number]}. What was whole is kept: make room, or choose another disk, and run "
                "the same command again"
            )
        error = error.__cause__ or error.__context__
    return None


def claim_folder(folder: Path, config: Any, anew: bool = False) -> None:
    """Make `folder` the place of a job with these settings, kept in its `config.yaml`; a job resumes in its own folder.

    Args:
        folder: made if it is missing.
        config: the dataclass of settings; options that are `free` may have changed.
        anew: the job starts over there, so that all options but those that are `fixed` may have changed.

    Raises:
        InputError: if the folder belongs to a job with other settings, or to something else.
    """
    path = folder / "config.yaml"
    new = not path.exists()
    if not new:
        saved, now = read_yaml(path, "the settings"), dataclasses.asdict(config)
        if not isinstance(saved, dict):
            raise InputError(f"{path} is damaged: restore it, or choose a new output_dir")
        saved = {k: v for k, v in saved.items() if k not in foreign_options(type(config))}  # which were saved once
        # An option that is younger than the folder had what is its default now.
        saved = {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING} | saved
        # One that takes several words now took one.
        saved |= {k: [v] for k, v in saved.items() if isinstance(now.get(k), list) and isinstance(v, str)}
        free = {k for k, rules in rules_of(type(config)).items() if "free" in rules or (anew and "fixed" not in rules)}
        changed = [k for k in sorted(saved.keys() | now.keys()) if saved.get(k) != now.get(k) and k not in free]
        if changed:
            changes = ", ".join(f"{k} was {saved.get(k)!r} and is {now.get(k)!r}" for k in changed[:5])
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise InputError(
                f"{folder} was made with other settings ({changes}{more}): "
                "choose a new output_dir, or give the old settings to resume there"
            )
    elif folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose a folder")
    elif folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise InputError(f"{folder} has files in it that are not dermgen's: choose a new output_dir")
    try:
        existed = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if new or saved != now:
            save(config, path)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}): choose another output_dir") from error
    if new:
        _claimed.append((folder, existed))


def saved_settings(folder: str | Path) -> dict[str, Any]:
    """The settings by name that a job's folder keeps in its `config.yaml`; none where there is no such file."""
    path = Path(folder, "config.yaml")
    return (read_yaml(path, "the settings") or {}) if path.exists() else {}


def _release_claims(earlier: int) -> None:
    """Give up folders, but the `earlier` ones, where a job failed before it made anything.

    They would refuse the corrected command.
    """
    while len(_claimed) > earlier:
        folder, existed = _claimed.pop()
        files = [p for p in folder.rglob("*") if p.is_file()]
        ours = [p for p in files if p in (folder / name for name in _AT_THE_START) or p.parent == folder / "logs"]
        if any(p not in ours and not p.name.startswith(".") for p in files):
            continue
        with suppress(OSError):  # a read-only disk, whose own error is the one to be seen
            for path in ours:
                path.unlink()
            places = sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True)
            for place in places if existed else [*places, folder]:
                if not any(place.iterdir()):
                    place.rmdir()
