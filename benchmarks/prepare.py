"""Seconds and peak memory of `dermgen prepare` on a HAM10000 folder, and of a second run with all images prepared.

    python benchmarks/prepare.py --data_dir data/raw/ham10000 [--resolution 256]

Memory is the proportional set size (shared memory is counted once) of the command and its workers together, sampled
ten times a second; Linux only.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in children for p in family(int(child)))]


def memory(pid: int) -> float:
    """MiB of a process and its descendants; 0 once they have ended."""
    total = 0
    try:
        for member in family(pid):
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return total / 1024


def measure(command: list[str]) -> tuple[float, float]:
    start, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed: run it by itself to see why")
    return time.perf_counter() - start, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_dir", required=True, help="a HAM10000 folder")
    parser.add_argument("--resolution", type=int, default=256)
    args = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores, {platform.machine()}; {args.resolution} px")
    print(f"{'':<14}{'seconds':>10}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dermgen.cli", "prepare", "ham10000", "--data_dir", args.data_dir]
        command += ["--output_dir", f"{folder}/m", "--resolution", str(args.resolution)]
        for name in ("first run", "second run"):
            seconds, peak = measure(command)
            print(f"{name:<14}{seconds:>10.1f}{peak:>10.0f}")


if __name__ == "__main__":
    main()
