"""Seconds until a command answers `--help`, and until it refuses a wrong flag: the best of three, with warm file cache.

python benchmarks/startup.py
"""

import subprocess
import sys
import time
from pathlib import Path

from dermgen.cli import COMMANDS

ROOT = Path(__file__).parent.parent


def best(command: list[str], expected: int) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        status = subprocess.run([sys.executable, *command], capture_output=True, cwd=ROOT).returncode
        times.append(time.perf_counter() - start)
        if status != expected:
            raise SystemExit(f"{' '.join(command)} ended with {status}, expected {expected}")
    return min(times)


def main() -> None:
    commands = [["-m", "dermgen.cli", name] for name in COMMANDS if name != "publish"]
    commands += [["-m", "dermgen.cli", "publish", kind] for kind in ("model", "dataset")]
    commands += [[str(path.relative_to(ROOT))] for path in sorted((ROOT / "train_scripts").glob("*.py"))]
    print("| command | --help | a wrong flag |\n| --- | --- | --- |")
    for command in commands:
        name = " ".join(command).replace("-m dermgen.cli", "dermgen")
        help_, wrong = best([*command, "--help"], 0), best([*command, "--wrong"], 2)
        print(f"| {name} | {help_:.2f} s | {wrong:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
