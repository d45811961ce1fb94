"""What the page of a run says: its heading, and what its sample grids show."""

import html
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dermgen.app.curves import score_of, title_of
from dermgen.app.progress import Progress
from dermgen.app.watched import SETS, WatchedRun
from dermgen.blocks import counted, number
from dermgen.results.common import shown
from dermgen.training.run_record import RunRecord

STATES = {
    "starting": "Starting",
    "training": "Training",
    "silent": "No sign of life",
    "stopped": "Stopped",
    "finished": "Finished",
}


def heading(name: str, run: WatchedRun) -> str:
    """Name, state, progress and facts of a run as HTML."""
    progress, record = run.progress, run.record
    state = progress.state
    so_far = record if state == "finished" else replace(record, finished_step=progress.step)
    facts = "".join(f"<dt>{key}</dt><dd>{html.escape(value)}</dd>" for key, value in _facts(record))
    bar = ""
    if progress.share is not None:
        bar = f'<div class="bar"><div class="{state}" style="width: {progress.share:.1%}"></div></div>'
    return (
        f'<h2>{html.escape(name)} <span class="state {state}">{STATES[state]}</span></h2>{bar}'
        f'<p id="progress">{_sentence(progress)}</p>{_resume(run)}'
        f"<p>{html.escape(so_far.headline())}</p><dl>{facts}</dl>"
    )


def heading_of_set(name: str, kinds: Sequence[str]) -> str:
    """Name and stages of a set as HTML."""
    tags = " ".join(f'<span class="state">{SETS[kind]}</span>' for kind in kinds)
    return f"<h2>{html.escape(name)} {tags}</h2>"


def short_state(progress: Progress) -> str:
    """For a list of runs."""
    if progress.state == "training" and progress.share is not None:
        return f"training, {progress.share:.0%}"
    return STATES[progress.state].lower()


def about_grid(record: RunRecord, step: int) -> str:
    """What the rows of the sample grid of a step show, as HTML."""
    about, prompts = "", record.settings.get("validation_prompt")
    if prompts:
        quoted = html.escape("; ".join(f"“{prompt}”" for prompt in prompts))
        base = "the base model above the trained one, from the same noise"
        rows = (
            f"For each prompt {base}" if record.settings.get("validation_base_rows", True) else "A row for each prompt"
        )
        about = f"{rows}: {quoted}."
    elif record.method is not None:
        about = "The same seeds and classes at every step."
    return f"<p><b>Step {step:,}.</b> {about}</p>"


def length(seconds: float) -> str:
    """A time in words: `40 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 90:
        return counted(round(seconds), "second")
    if seconds < 90 * 60:
        return counted(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours"


def _sentence(progress: Progress) -> str:
    """How far the run is, and how long it takes."""
    done = f"Step {progress.step:,}" + (f" of {progress.total:,}" if progress.total is not None else "")
    if progress.state == "starting":
        return "No step has been logged yet."
    parts = [done]
    if progress.seconds_per_step is not None:
        parts.append(f"{number(progress.seconds_per_step)} seconds a step")
    if progress.seconds_left is not None:
        parts.append(f"about {length(progress.seconds_left)} left")
    return " · ".join(parts)


def _resume(run: WatchedRun) -> str:
    """For a run that has stopped: when, and the command that resumes it."""
    progress = run.progress
    if progress.state not in ("silent", "stopped"):
        return ""
    when = time.strftime("%H:%M on %d %B", time.localtime(progress.last_sign))
    ago = length(time.time() - progress.last_sign)
    if progress.state == "stopped":
        text = f"It was stopped at {when}, {ago} ago."
    else:
        text = f"Its last file was written at {when}, {ago} ago: it may have been interrupted."
    command = resume_command(run.record)
    if command is None:
        return f"<p>{text} The command that began it resumes it.</p>"
    return f"<p>{text} The command that began it resumes it:</p><pre id='resume'>{html.escape(command)}</pre>"


def resume_command(record: RunRecord) -> str | None:
    """The command line that began a run, which resumes it; None where it was not recorded."""
    if not record.argv:
        return None
    program, *arguments = record.argv
    if Path(program).name == "after_training.py":  # the module that `dermgen train` launches
        _, method, _, recipe, *flags = arguments
        return shlex.join(["dermgen", "train", recipe, "--method", method, *flags])
    launcher = "accelerate launch " if program.endswith(".py") else ""
    return f"{launcher}{program} {shlex.join(arguments)}"


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    """Its best validation and what the training took, as far as they are recorded."""
    best, seconds, facts = record.best(), record.training_seconds, []
    if best is not None:
        value = shown(score_of(record.best_by), best[1])
        facts.append(("Best", f"{title_of(record.best_by)} {value} at step {best[0]:,}"))
    if seconds is not None:
        facts.append(("Training took", f"{length(seconds)} on {record.device}"))
    return facts
