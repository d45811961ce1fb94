"""The summary that a report opens with: for each question the sentence of a stage, or that it is not known."""

from collections.abc import Sequence
from dataclasses import dataclass

from dermgen.stages import STAGES

MOST = 3  # sentences to a question

# By the stage that answers: the question, and what is said where a set of synthetic images has no answer to it.
QUESTIONS = {
    "training": ("Training", "No training run is part of this report."),
    "data": ("Splits", "No manifest is part of this report, so it cannot tell whether lesions are kept apart."),
    "generated": ("Images", ""),
    "scores": ("Quality", "Not compared with held-out real images."),
    "audit": ("Copies", "Not audited for copies."),
    "filter": ("Filter", ""),
    "classifier": ("Classifier", ""),
    "study": ("Benefit", "Whether the images help a classifier was not studied."),
}
ABOUT_SYNTHETIC = frozenset(STAGES) - {"data", "classifier"}


@dataclass(frozen=True)
class Section:
    """A stage's part of the report.

    Attributes:
        stage: one of `STAGES`.
        id: of its place on the page.
        title: above it.
        headline: its result in a sentence.
        warnings: number of them.
    """

    stage: str
    id: str
    title: str
    headline: str
    warnings: int = 0


@dataclass(frozen=True)
class Answer:
    """A question of the summary, the sections whose headlines answer it, and how many more there are.

    `unknown` is the answer where there is no section.
    """

    question: str
    sections: Sequence[Section]
    more: int = 0
    unknown: str = ""


def summarize(sections: Sequence[Section]) -> list[Answer]:
    """The summary of a report with these sections, in the order in which a reader asks."""
    is_about_synthetic = any(section.stage in ABOUT_SYNTHETIC for section in sections)
    answers = []
    for stage, (question, unknown) in QUESTIONS.items():
        mine = [section for section in sections if section.stage == stage]
        if mine:
            answers.append(Answer(question, mine[:MOST], len(mine[MOST:])))
        elif unknown and is_about_synthetic:
            answers.append(Answer(question, (), unknown=unknown))
    return answers
