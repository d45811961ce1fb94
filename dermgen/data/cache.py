"""Arrays computed once and kept on disk, memory-mapped, each named by a hash of everything it depends on."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from tqdm.auto import tqdm

from dermgen.config import InputError


def default_cache_dir() -> Path:
    """`$DERMGEN_CACHE`, else `~/.cache/dermgen`."""
    return Path(os.environ.get("DERMGEN_CACHE") or Path.home() / ".cache" / "dermgen")


def key_of(*parts: object) -> str:
    """A hash over the text of all `parts`."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, independent of its name and date."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over a model's weights, their names and types."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def cached_array(
    path: Path,
    num_rows: int,
    compute: Callable[[Iterable[int]], np.ndarray],
    accelerator: Accelerator,
    batch_size: int,
    what: str,
) -> np.ndarray:
    """The array stored at `path`, read-only and memory-mapped; computed first, by all processes, if it is missing.

    Args:
        path: a `.npy` file whose name contains the key of its content.
        num_rows: length of the array.
        compute: rows of the array for the given indices, (n, …) float32; called with at most `batch_size` of them.
        accelerator: each process computes its share.
        batch_size: rows at a time.
        what: description for the progress bar.

    Raises:
        InputError: if the file is damaged.
    """
    # One process decides: another could see a file that appeared a moment later.
    exists = broadcast_object_list([path.exists()])[0]
    if not exists:
        partial = path.with_name(f".{path.name}.{broadcast_object_list([os.getpid()])[0]}.partial")
        mine = range(num_rows)[accelerator.process_index :: accelerator.num_processes]
        batches = [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]
        first = compute([0])
        if accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(partial, "w+", first.dtype, (num_rows, *first.shape[1:])).flush()
        accelerator.wait_for_everyone()
        array = np.lib.format.open_memmap(partial, "r+")
        for batch in tqdm(batches, desc=what, disable=not accelerator.is_main_process, dynamic_ncols=True):
            array[batch.start : batch.stop : batch.step] = compute(batch)
        array.flush()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            os.replace(partial, path)
        accelerator.wait_for_everyone()
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the cache file {path} cannot be read ({error}): delete it and run again") from error
    if len(array) != num_rows:
        raise InputError(f"the cache file {path} has {len(array)} rows, expected {num_rows}: delete it and run again")
    return array


def _digest(file) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()
