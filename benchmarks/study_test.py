"""How often a study calls a difference real that does not exist, by the number of test lesions of the rarest class.

    python benchmarks/study_test.py [--repeats 400]

Two arms of 3 seeds get 60 % (or 90 %) of lesions right, independently of each other, so that they are truly equal; the
seeds of an arm agree on 95 % of lesions. Three classes of 40, 30 and N test lesions. The nominal rate is 5 %.
"""

import argparse
import os

import numpy as np

from dermgen.classify import comparison


def false_alarms(rng: np.random.Generator, counts: list[int], accuracy: float) -> tuple[bool, bool]:
    """Whether the BMA, and the recall of the last class, is called different in one study."""
    labels = np.repeat(np.arange(len(counts)), counts)
    answers = {}
    for arm in "ab":
        stable = rng.random(len(labels)) < accuracy
        right = [stable ^ (rng.random(len(labels)) < 0.05) for _ in range(3)]
        answers[arm] = [np.eye(len(counts))[np.where(r, labels, (labels + 1) % len(counts))] for r in right]
    classes = [f"c{i}" for i in range(len(counts))]
    found = comparison.compare(answers, labels, np.arange(len(labels)), classes, "a", classes[-1], 100)["b"]
    return "is real" in found["verdict"], "), real." in found["verdict"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    args = parser.parse_args()
    os.nice(10)
    comparison._auroc = lambda scores, positive, weights: np.full(len(weights), 0.5)  # the slowest score, not needed
    print("| lesions of the rarest class | BMA, 60 % right | its recall | BMA, 90 % right | its recall |")
    print("|" + " --- |" * 5)
    rng = np.random.default_rng(0)
    for rare in (1, 2, 3, 5, 6, 11, 30):
        cells = []
        for accuracy in (0.6, 0.9):
            found = np.mean([false_alarms(rng, [40, 30, rare], accuracy) for _ in range(args.repeats)], axis=0)
            cells += [f"{found[0]:.1%}", f"{found[1]:.1%}" if rare >= comparison.MIN_LESIONS else "too few to tell"]
        print(f"| {rare} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
