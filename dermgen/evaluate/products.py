"""The three matrices of dot products that the scores share: each computed once, block by block, never stored whole.

From X Xᵀ, Y Yᵀ and X Yᵀ come kernel sums (KID), neighbour distances (precision, recall, density, coverage) and each
synthetic image's nearest real one. For N images memory is O(N), for 100,000 as for 1,000.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Within:
    """One set with itself: ascending squared distances to the nearest others, (N, K), and their rows; kernel sums."""

    squared_distances: torch.Tensor
    neighbours: torch.Tensor  # (N, K) int64
    kernel_sums: torch.Tensor  # (N,) float64

    def radius(self, k: int) -> torch.Tensor:
        """Squared distance to the k-th nearest other, (N,)."""
        return self.squared_distances[:, k - 1]


@dataclass(frozen=True)
class Hits:
    """In how many balls of another set each point lies, (P,); of a point in just one, `which` is that ball."""

    count: torch.Tensor
    which: torch.Tensor

    @classmethod
    def none(cls, points: int, device: torch.device | str) -> "Hits":
        return cls(*(torch.zeros(points, dtype=torch.int64, device=device) for _ in range(2)))

    def add(self, points: slice, inside: torch.Tensor, first: int) -> None:
        """Count a block of balls, the first of which has the number `first`; `inside` is (points, balls) bool."""
        numbers = torch.arange(first, first + inside.shape[1], device=inside.device)
        # For a point in a single ball the sum of numbers is that ball's; float32 is exact up to 16 million.
        sums = inside.float() @ torch.stack([torch.ones_like(numbers), numbers], dim=1).float()
        self.count[points] += sums[:, 0].long()
        self.which[points] += sums[:, 1].long()

    @property
    def share(self) -> float:
        """Share of points that are in a ball."""
        return float((self.count > 0).double().mean())

    def alone(self, balls: int) -> torch.Tensor:
        """How many points each ball holds that no other does, (balls,)."""
        return torch.bincount(self.which[self.count == 1], minlength=balls)


@dataclass(frozen=True)
class Across:
    """Synthetic images with real ones; the balls are those of `scores`."""

    synthetic_kernel_sums: torch.Tensor  # (M,) float64, over real images
    real_kernel_sums: torch.Tensor  # (N,) float64, over synthetic images
    in_real: Hits  # synthetic images in real ones' balls for precision
    in_synthetic: Hits  # real images in synthetic ones' balls for recall
    real_balls: torch.Tensor  # (M,) in how many real images' density balls
    covered: Hits  # which synthetic images are in each real image's own density ball, (N,)
    in_larger_ball: torch.Tensor  # (N,) synthetic images in that ball if it reaches one real neighbour further
    nearest_real: torch.Tensor  # (M,) int64
    nearest_squared_distance: torch.Tensor  # (M,)


def within(x: np.ndarray, k: int, block: int = 2048, device: torch.device | str = "cpu") -> Within:
    """Neighbours and kernel sums of one feature set, (N, D) float32; each pair is multiplied once.

    Args:
        x: features; memory-mapped ones are read block by block.
        k: neighbours to find; fewer than N.
        block: rows at a time; memory is a few block x block matrices.
        device: where the products are computed.
    """
    n = len(x)
    nearest = torch.full((n, k), torch.inf, device=device)
    indices = torch.zeros((n, k), dtype=torch.int64, device=device)
    kernel_sums = torch.zeros(n, dtype=torch.float64, device=device)
    starts = range(0, n, block)
    for i in starts:
        a = _load(x, i, block, device)
        rows = slice(i, i + len(a))
        for j in range(i, n, block):
            b = a if i == j else _load(x, j, block, device)
            products = a @ b.T
            kernel = _kernel(products, x.shape[1])
            distances = _squared_distances(products, a, b)
            if i == j:
                kernel.fill_diagonal_(0)
                distances.fill_diagonal_(torch.inf)
            else:
                columns = slice(j, j + len(b))
                kernel_sums[columns] += kernel.sum(0).double()
                nearest[columns], indices[columns] = _merge(nearest[columns], indices[columns], distances.T, i)
            kernel_sums[rows] += kernel.sum(1).double()
            nearest[rows], indices[rows] = _merge(nearest[rows], indices[rows], distances, j)
    return Within(nearest.clamp_min(0), indices, kernel_sums)


def across(
    real: np.ndarray,
    synthetic: np.ndarray,
    real_radius: torch.Tensor,
    synthetic_radius: torch.Tensor,
    density_radius: torch.Tensor,
    larger_radius: torch.Tensor,
    block: int = 2048,
    device: torch.device | str = "cpu",
) -> Across:
    """Kernel sums, balls and nearest neighbours between real (N, D) and synthetic images (M, D), float32.

    Args:
        real: features.
        synthetic: features.
        real_radius: (N,) squared radius of each real image's ball for precision.
        synthetic_radius: (M,) squared radius of each synthetic image's ball for recall.
        density_radius: (N,) squared radius of each real image's ball for density and coverage.
        larger_radius: (N,) the same without its nearest neighbour.
        block: rows at a time.
        device: where the products are computed.
    """
    n, m = len(real), len(synthetic)
    of_synthetic = torch.zeros(m, dtype=torch.float64, device=device)
    of_real = torch.zeros(n, dtype=torch.float64, device=device)
    in_real, in_synthetic, covered = (Hits.none(points, device) for points in (m, n, n))
    balls = torch.zeros(m, dtype=torch.int64, device=device)
    larger = torch.zeros(n, dtype=torch.int64, device=device)
    nearest = torch.full((m,), torch.inf, device=device)
    indices = torch.zeros(m, dtype=torch.int64, device=device)
    for i in range(0, m, block):
        a = _load(synthetic, i, block, device)
        rows = slice(i, i + len(a))
        for j in range(0, n, block):
            b = _load(real, j, block, device)
            columns = slice(j, j + len(b))
            products = a @ b.T
            kernel = _kernel(products, real.shape[1])
            distances = _squared_distances(products, a, b)
            of_synthetic[rows] += kernel.sum(1).double()
            of_real[columns] += kernel.sum(0).double()
            in_real.add(rows, distances <= real_radius[columns], j)
            in_synthetic.add(columns, (distances <= synthetic_radius[rows, None]).T, i)
            inside = distances <= density_radius[columns]
            balls[rows] += inside.sum(1)
            covered.add(columns, inside.T, i)
            larger[columns] += (distances <= larger_radius[columns]).sum(0)
            closest, at = distances.min(1)
            closer = closest < nearest[rows]
            nearest[rows] = torch.where(closer, closest, nearest[rows])
            indices[rows] = torch.where(closer, at + j, indices[rows])
    return Across(of_synthetic, of_real, in_real, in_synthetic, balls, covered, larger, indices, nearest.clamp_min(0))


def nearest(
    queries: np.ndarray, base: np.ndarray, k: int, block: int = 2048, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of `base` (N, D) for each query (M, D): ascending squared distances and the rows, (M, k)."""
    distances, nearest_rows = [], []
    for i in range(0, len(queries), block):
        a = _load(queries, i, block, device)
        best = torch.full((len(a), k), torch.inf, device=device)
        indices = torch.zeros((len(a), k), dtype=torch.int64, device=device)
        for j in range(0, len(base), block):
            b = _load(base, j, block, device)
            best, indices = _merge(best, indices, _squared_distances(a @ b.T, a, b), j)
        distances.append(best.clamp_min(0).cpu().numpy())
        nearest_rows.append(indices.cpu().numpy())
    return np.concatenate(distances), np.concatenate(nearest_rows)


def _load(x: np.ndarray, start: int, block: int, device) -> torch.Tensor:
    return torch.from_numpy(np.array(x[start : start + block], np.float32)).to(device)


def _kernel(products: torch.Tensor, width: int) -> torch.Tensor:
    """The polynomial kernel of KID, (xᵀy / D + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401)."""
    base = products / width + 1
    return base * base * base


def _squared_distances(products: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|a|² + |b|² - 2 aᵀb, written over `products`."""
    return products.mul_(-2).add_(a.square().sum(1)[:, None]).add_(b.square().sum(1))


def _merge(
    best: torch.Tensor, indices: torch.Tensor, distances: torch.Tensor, first: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest of the distances so far, with their columns, and of a block whose first column is `first`."""
    k = best.shape[1]
    smallest, at = distances.topk(min(k, distances.shape[1]), dim=1, largest=False)
    best, chosen = torch.cat([best, smallest], dim=1).topk(k, dim=1, largest=False)
    return best, torch.cat([indices, at + first], dim=1).gather(1, chosen)
