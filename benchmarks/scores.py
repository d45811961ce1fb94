"""Seconds and peak memory of the scores from features, beside torch-fidelity's FID + KID + precision and recall.

    python benchmarks/scores.py [--images 10000] [--width 2048] [--skip_peer]

Both read the same two files of random float32 features, each in a process of its own. Ours are FID, KID, precision,
recall, density, coverage and every synthetic image's nearest real one, with intervals; the peer's FID, KID (100 subsets
of 1,000) and precision and recall.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

OURS = """
import sys, time, json, numpy as np
from dermgen.evaluate.scores import compare
real, synthetic = (np.load(p, mmap_mode="r") for p in sys.argv[1:3])
start = time.perf_counter()
found, _ = compare(real, synthetic)
intervals = {name: score.interval() for name, score in found.items()}
print(json.dumps({"seconds": time.perf_counter() - start, **{k: s.value for k, s in found.items()}}))
"""
PEER = """
import sys, time, json, numpy as np, torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
real, synthetic = (torch.from_numpy(np.load(p)) for p in sys.argv[1:3])
start = time.perf_counter()
fid = fid_statistics_to_metric(*(fid_features_to_statistics(x) for x in (synthetic, real)), verbose=False)
kid = kid_features_to_metric(synthetic, real, kid_subset_size=1000, verbose=False)
prc = prc_features_to_metric(synthetic, real, verbose=False)
print(json.dumps({"seconds": time.perf_counter() - start, "fid": fid["frechet_inception_distance"],
    "kid": kid["kernel_inception_distance_mean"], "precision": prc["precision"], "recall": prc["recall"]}))
"""


def measure(code: str, files: list[Path]) -> tuple[dict, float]:
    """The output of one process, and its peak memory in MiB."""
    child = subprocess.Popen([sys.executable, "-c", code, *map(str, files)], stdout=subprocess.PIPE, text=True)
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError("a contender failed")
    return json.loads(text.strip().splitlines()[-1]), usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--skip_peer", action="store_true", help="its memory grows with the square of the images")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{args.images:,} real against {args.images:,} synthetic images, {args.width} features\n")
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        files = []
        for name, scale in (("real", 1.0), ("synthetic", 1.1)):
            files.append(Path(folder, f"{name}.npy"))
            out = np.lib.format.open_memmap(files[-1], "w+", np.float32, (args.images, args.width))
            mix = rng.normal(size=(64, args.width)).astype(np.float32) / 8  # features of images vary in few directions
            for i in range(0, args.images, 2048):
                n = len(out[i : i + 2048])
                low = rng.normal(size=(n, 64)).astype(np.float32) @ mix
                out[i : i + 2048] = np.abs(scale * low + 0.3 * rng.normal(size=(n, args.width)).astype(np.float32))
            del out
        print(f"{'':16}{'seconds':>10}{'peak MiB':>10}{'FID':>12}{'KID':>12}{'precision':>11}{'recall':>9}")
        for name, code in (("dermgen", OURS), ("torch-fidelity", PEER)):
            if name == "torch-fidelity" and args.skip_peer:
                continue
            start = time.perf_counter()
            found, peak = measure(code, files)
            print(
                f"{name:16}{found['seconds']:>10.1f}{peak:>10.0f}{found['fid']:>12.5f}{found['kid']:>12.6f}"
                f"{found['precision']:>11.4f}{found['recall']:>9.4f}   (process {time.perf_counter() - start:.1f} s)"
            )


if __name__ == "__main__":
    main()
