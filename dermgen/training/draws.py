"""Everything random about the k-th image that a run draws: which image it is, and its own random numbers.

Both are functions of `(seed, k)` alone. Resuming is a start index, and neither gradient accumulation nor the number
of processes changes what happens to an image.
"""

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, Sampler

from dermgen.settings.training import TrainConfig

# First parts of the seeds of images other than training images; those of training images are small.
SAMPLES, VALIDATION, MONITOR, STATISTICS, PICTURES = range(2**30, 2**30 + 5)
HELD_OUT = 2**30  # fine-tuning derives no seeds for samples
CLASS_IMAGES = 2**31


class Order:
    """Shuffled indices of a data set without end: `order[k]`; each stretch of `size` draws holds every index once."""

    def __init__(self, size: int, *key: int):
        self.size, self.key = size, key
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, k: int) -> int:
        epoch, position = divmod(k, self.size)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, np.random.default_rng((*self.key, epoch)).permutation(self.size)
        return int(self._permutation[position])


class DrawnItems(Dataset):
    """Item k is `(k, the k-th drawn item of each data set)`; each data set is shuffled independently."""

    def __init__(self, datasets: Sequence[Dataset], seed: int):
        self.datasets = datasets
        self.orders = [Order(len(dataset), seed, i) for i, dataset in enumerate(datasets)]

    def __getitem__(self, k: int) -> tuple:
        return k, *(dataset[order[k]] for dataset, order in zip(self.datasets, self.orders, strict=True))


class Positions(Sampler):
    """k = start, start + 1, … without end, of which this rank gets every `world_size`-th."""

    def __init__(self, start: int, rank: int, world_size: int):
        self.start, self.rank, self.world_size = start, rank, world_size

    def __iter__(self) -> Iterator[int]:
        k = self.start + self.rank
        while True:
            yield k
            k += self.world_size


def endless_loader(
    datasets: Sequence[Dataset], collate_fn: Callable, config: TrainConfig, start: int, accelerator: Accelerator
) -> Iterator[list]:
    """This process's batches `[ks, batch of each data set, …]` from image `start` on, without end."""
    return iter(
        DataLoader(
            DrawnItems(datasets, config.seed),
            batch_size=config.train_batch_size,
            sampler=Positions(start, accelerator.process_index, accelerator.num_processes),
            collate_fn=_CollateEach(collate_fn),
            num_workers=config.dataloader_num_workers,
            pin_memory=accelerator.device.type == "cuda",
            worker_init_fn=_ignore_ctrl_c,
        )
    )


class _CollateEach:
    """Collate `(k, item of set 0, item of set 1, …)` rows into `[ks, batch of set 0, batch of set 1, …]`."""

    def __init__(self, collate_fn: Callable):
        self.collate_fn = collate_fn

    def __call__(self, rows: list[tuple]) -> list:
        ks, *sets = zip(*rows, strict=True)
        return [torch.tensor(ks), *(self.collate_fn(list(items)) for items in sets)]


def _ignore_ctrl_c(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process decides when to stop


class Draws:
    """One random stream per image of a batch, in the batch's order.

    Numbers are drawn on the CPU and moved, so that a seed means the same on every device.

    Args:
        seeds: one integer per image.
        device: where the drawn tensors go.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu"):
        self.rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def split(self, sizes: Sequence[int]) -> list["Draws"]:
        """The same streams in parts of these sizes; drawing from a part advances the streams here too."""
        parts, rngs = [], iter(self.rngs)
        for size in sizes:
            part = Draws([], self.device)
            part.rngs = list(itertools.islice(rngs, size))
            parts.append(part)
        return parts

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers, (N, *shape) float32."""
        return self._stack([torch.randn(shape, generator=rng) for rng in self.rngs])

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), (N, *shape) float32."""
        return self._stack([torch.rand(shape, generator=rng) for rng in self.rngs])

    def integers(self, high: int) -> torch.Tensor:
        """Uniform integers in [0, high), (N,) int64."""
        return self._stack([torch.randint(high, (), generator=rng) for rng in self.rngs])

    def _stack(self, rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(rows).to(self.device, non_blocking=True)


def derive_seed(*key: int) -> int:
    """A 64-bit seed that depends on every integer of `key`, but for zeros at its end.

    PyTorch's CPU generator uses its lower 32 bits, so two images in some billions of pairs have the same stream.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
