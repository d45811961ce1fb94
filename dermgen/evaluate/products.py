"""The three matrices of products that scores share: each made once, block by block, none of them kept.

From X Xᵀ, Y Yᵀ and X Yᵀ come kernel sums (KID), neighbour distances (precision, recall, density, coverage) and each
synthetic image's nearest real one. For N images memory is O(N), for 100,000 as for 1,000.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Within:
    """Of one set with itself: squared distances to the nearest others, (N, K) rising; kernel sums over others, (N,)."""

    squared_distances: torch.Tensor
    kernel_sums: torch.Tensor

    def radius(self, k: int) -> torch.Tensor:
        """Squared distance to the k-th nearest other, (N,)."""
        return self.squared_distances[:, k - 1]


@dataclass(frozen=True)
class Across:
    """Of synthetic images with real ones; `covered` by neighbourhoods is as in `scores`."""

    synthetic_kernel_sums: torch.Tensor  # (M,) float64, over real images
    real_kernel_sums: torch.Tensor  # (N,) float64, over synthetic images
    in_real_manifold: torch.Tensor  # (M,) bool: inside the k-ball of some real image
    in_synthetic_manifold: torch.Tensor  # (N,) bool: inside the k-ball of some synthetic image
    real_balls: torch.Tensor  # (M,) in how many real images' density balls
    has_synthetic_neighbour: torch.Tensor  # (N,) bool: some synthetic image is in its own density ball
    nearest_real: torch.Tensor  # (M,) int64
    nearest_squared_distance: torch.Tensor  # (M,)


def within(x: np.ndarray, k: int, block: int = 2048, device: torch.device | str = "cpu") -> Within:
    """Neighbours and kernel sums of one feature set, (N, D) float32; each pair is multiplied once.

    Args:
        x: features; memory-mapped ones are read block by block.
        k: neighbours to find; fewer than N.
        block: rows at a time; memory is a few block x block matrices.
        device: where the products are made.
    """
    n = len(x)
    nearest = torch.full((n, k), torch.inf, device=device)
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
                nearest[columns] = _merge(nearest[columns], distances.T)
            kernel_sums[rows] += kernel.sum(1).double()
            nearest[rows] = _merge(nearest[rows], distances)
    return Within(nearest.clamp_min(0), kernel_sums)


def across(
    real: np.ndarray,
    synthetic: np.ndarray,
    real_radius: torch.Tensor,
    synthetic_radius: torch.Tensor,
    density_radius: torch.Tensor,
    block: int = 2048,
    device: torch.device | str = "cpu",
) -> Across:
    """What synthetic images (M, D) have to do with real ones (N, D), float32.

    Args:
        real: features.
        synthetic: features.
        real_radius: (N,) squared radius of each real image's ball for precision.
        synthetic_radius: (M,) squared radius of each synthetic image's ball for recall.
        density_radius: (N,) squared radius of each real image's ball for density and coverage.
        block: rows at a time.
        device: where the products are made.
    """
    n, m = len(real), len(synthetic)
    of_synthetic = torch.zeros(m, dtype=torch.float64, device=device)
    of_real = torch.zeros(n, dtype=torch.float64, device=device)
    in_real = torch.zeros(m, dtype=torch.bool, device=device)
    in_synthetic = torch.zeros(n, dtype=torch.bool, device=device)
    balls = torch.zeros(m, dtype=torch.int64, device=device)
    covered = torch.zeros(n, dtype=torch.bool, device=device)
    nearest = torch.full((m,), torch.inf, device=device)
    who = torch.zeros(m, dtype=torch.int64, device=device)
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
            in_real[rows] |= (distances <= real_radius[columns]).any(1)
            in_synthetic[columns] |= (distances <= synthetic_radius[rows, None]).any(0)
            inside = distances <= density_radius[columns]
            balls[rows] += inside.sum(1)
            covered[columns] |= inside.any(0)
            closest, at = distances.min(1)
            closer = closest < nearest[rows]
            nearest[rows] = torch.where(closer, closest, nearest[rows])
            who[rows] = torch.where(closer, at + j, who[rows])
    return Across(of_synthetic, of_real, in_real, in_synthetic, balls, covered, who, nearest.clamp_min(0))


def nearest(
    queries: np.ndarray, base: np.ndarray, k: int, block: int = 2048, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of `base` (N, D) for each query (M, D): squared distances (M, k) rising, and which, (M, k)."""
    distances, which = [], []
    for i in range(0, len(queries), block):
        a = _load(queries, i, block, device)
        best = torch.full((len(a), k), torch.inf, device=device)
        who = torch.zeros((len(a), k), dtype=torch.int64, device=device)
        for j in range(0, len(base), block):
            b = _load(base, j, block, device)
            found = torch.cat([best, _squared_distances(a @ b.T, a, b)], dim=1)
            ids = torch.cat([who, torch.arange(j, j + len(b), device=device).expand(len(a), -1)], dim=1)
            best, at = found.topk(k, dim=1, largest=False)
            who = ids.gather(1, at)
        distances.append(best.clamp_min(0).cpu().numpy())
        which.append(who.cpu().numpy())
    return np.concatenate(distances), np.concatenate(which)


def _load(x: np.ndarray, start: int, block: int, device) -> torch.Tensor:
    return torch.from_numpy(np.array(x[start : start + block], np.float32)).to(device)


def _kernel(products: torch.Tensor, width: int) -> torch.Tensor:
    """The polynomial kernel of KID, (xᵀy / D + 1)³ (Bińkowski et al. 2018, arXiv:1801.01401)."""
    base = products / width + 1
    return base * base * base


def _squared_distances(products: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|a|² + |b|² - 2 aᵀb, written over `products`."""
    return products.mul_(-2).add_(a.square().sum(1)[:, None]).add_(b.square().sum(1))


def _merge(best: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    k = best.shape[1]
    smallest = distances.topk(min(k, distances.shape[1]), dim=1, largest=False).values
    return torch.cat([best, smallest], dim=1).topk(k, dim=1, largest=False).values
