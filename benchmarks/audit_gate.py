"""The audit's verdicts on honest sets, and on sets with planted copies, by the number of held-out images.

    python benchmarks/audit_gate.py [--repeats 2000]

Distances are simulated, without images: honest ones from one distribution for held-out and synthetic images, copies at
0 to 0.02 ("clear") or at half the threshold ("altered", like a strong crop). Of 500 synthetic images 3 % are copies.
"""

import argparse

import numpy as np

from dermgen.evaluate import verdict
from dermgen.evaluate.audit import MIN_THRESHOLD, AuditConfig

HELD_OUT = (50, 60, 100, 200, 300, 600, 3000)
SYNTHETIC, PLANTED = 500, 15


def outcome(rng: np.random.Generator, held_out: int, planted: str, config: AuditConfig) -> str:
    """The verdict on one set."""
    usual, distance = (rng.lognormal(np.log(0.6), 0.12, size=n) for n in (held_out, SYNTHETIC))
    threshold = np.quantile(usual, config.false_alarms, method="lower")
    if planted:
        distance[:PLANTED] = rng.uniform(0, MIN_THRESHOLD, PLANTED) if planted == "clear" else threshold / 2
    chance = verdict.chance_of_alarms(config.false_alarms, held_out, held_out)
    found = int((distance < threshold).sum()), int((distance < MIN_THRESHOLD).sum())
    return verdict.judge(*found, SYNTHETIC, chance, config.max_copy_rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    args = parser.parse_args()
    config = AuditConfig(real="-", synthetic="-", output_dir="-")
    rng = np.random.default_rng(0)
    verdicts = (verdict.PASSED, verdict.CANNOT_TELL, verdict.FAILED)
    head = [f"{kind}: {v}" for kind in ("honest", "clear", "altered") for v in verdicts]
    print("| held out | " + " | ".join(head) + " |")
    print("|" + " --- |" * 10)
    for n in HELD_OUT:
        cells = []
        for planted in ("", "clear", "altered"):
            found = [outcome(rng, n, planted, config) for _ in range(args.repeats)]
            cells += [f"{found.count(v) / args.repeats:.1%}" for v in verdicts]
        print(f"| {n:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
