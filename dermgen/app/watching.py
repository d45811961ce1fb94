"""The page that shows runs and sets, and follows those in progress."""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio
from PIL import Image

from dermgen import stages
from dermgen.app import generating, run_page, set_page
from dermgen.app.curves import curves, picture
from dermgen.app.studio import Studio, can_generate
from dermgen.app.watched import SETS, Watched, WatchedRun, step_of
from dermgen.config import InputError
from dermgen.settings.app import AppConfig

SECONDS = 2.0  # between two looks at the folders
WIDTH = 720  # of a sample grid on the page, in pixels, as near as whole multiples come

# What a component is changed to.
Changes = dict[gradio.blocks.Block, dict[str, Any]]


class Parts(NamedTuple):
    """The components of the page; a run shows some of them, a set others."""

    folders: gradio.Radio
    heading: gradio.HTML
    report: gradio.HTML
    curves: gradio.HTML
    slider: gradio.Slider
    about_grid: gradio.HTML
    grid: gradio.Image
    generate: gradio.Button
    recipe_box: gradio.Accordion
    recipe: gradio.HTML
    card_box: gradio.Accordion
    card: gradio.Markdown


def build(watched: Watched, place: Path) -> gradio.Blocks:
    """The page.

    Args:
        watched: what it shows.
        place: a folder for what is generated.
    """
    with gradio.Blocks(title="dermgen", analytics_enabled=False) as page:
        sent, opened = gradio.State({}), gradio.State("")
        parts = _layout(watched)

        def look(name: str, at: int, before: Mapping[str, Any]) -> dict:
            now = dict(before)
            changes = _changes(parts, watched, name, at, now, place)
            return {**{part: gradio.update(**change) for part, change in changes.items()}, sent: now}

        for event in (page.load, gradio.Timer(SECONDS).tick, parts.folders.change):
            event(look, [parts.folders, parts.slider, sent], [*parts, sent], show_progress="hidden")
        parts.slider.input(
            lambda name, at: _grid(watched.run(watched.names()[name]), at),
            [parts.folders, parts.slider],
            [parts.grid, parts.about_grid],
            show_progress="hidden",
            trigger_mode="always_last",
        )
        parts.folders.change(lambda: "", None, opened)
        parts.generate.click(lambda name: name, parts.folders, opened)

        @gradio.render(inputs=opened)
        def generation(name: str) -> None:
            if name:
                _offer_generation(watched.names()[name], place)

    return page


def _layout(watched: Watched) -> Parts:
    names = watched.names()
    newest = watched.newest()
    shown = next(name for name, folder in names.items() if folder == newest)
    with gradio.Row():
        with gradio.Column(scale=1, min_width=240):
            folders = gradio.Radio(_choices(watched), value=shown, label="Runs and sets", elem_id="folders")
        with gradio.Column(scale=4, min_width=320):
            heading = gradio.HTML(elem_id="heading")
            report = gradio.HTML(visible=False, elem_id="report")
            curves = gradio.HTML(visible=False, elem_id="curves")
            slider = gradio.Slider(1, 2, 1, step=1, label="Sample grid", visible=False, elem_id="slider")
            about_grid = gradio.HTML(visible=False, elem_id="about-grid")
            grid = gradio.Image(
                visible=False, show_label=False, format="png", interactive=False, buttons=[], elem_id="grid"
            )
            generate = gradio.Button("Generate images with this model", size="md", visible=False, elem_id="generate")
            with gradio.Accordion("Recipe", open=False, visible=False, elem_id="recipe") as recipe_box:
                recipe = gradio.HTML()
            with gradio.Accordion("Card", open=False, visible=False, elem_id="card") as card_box:
                card = gradio.Markdown()
    return Parts(
        folders, heading, report, curves, slider, about_grid, grid, generate, recipe_box, recipe, card_box, card
    )


def _choices(watched: Watched) -> list[tuple[str, str]]:
    """The folders as the list shows them, with the state of a run or what a set is."""
    choices = []
    for name, folder in watched.names().items():
        run = watched.run(folder)
        kind = run_page.short_state(run.progress) if run else SETS[stages.of(folder)[0]].lower()
        choices.append((f"{name} · {kind}", name))
    return choices


def _changes(parts: Parts, watched: Watched, name: str, at: int, now: dict[str, Any], place: Path) -> Changes:
    """What has changed of the page since `now`, which is brought up to date.

    Args:
        parts: its components.
        watched: what it shows.
        name: of the chosen folder.
        at: position of the slider.
        now: what was sent before, by the part of the page.
        place: a folder for plots.
    """

    def is_new(part: str, value: Any) -> bool:
        new = now.get(part) != value
        now[part] = value
        return new

    changes: Changes = {}
    choices = _choices(watched)
    if is_new("choices", choices):
        changes[parts.folders] = {"choices": choices}
    folder = watched.names().get(name)
    if folder is None:
        return changes | {parts.heading: {"value": "<p>This folder has been removed.</p>"}}
    run = watched.run(folder)
    heading = run_page.heading(name, run) if run else run_page.heading_of_set(name, stages.of(folder))
    if is_new("heading", heading):
        changes[parts.heading] = {"value": heading}
    if is_new("report", (name, *_modified(folder))):
        changes |= _report(parts, folder, place)
    lines = run.lines if run else []
    if is_new("curves", (name, len(lines), lines[-1:])):
        drawn = "".join(map(picture, curves(lines)))
        changes[parts.curves] = {"value": f'<div class="curves">{drawn}</div>', "visible": bool(drawn)}
    changes |= _samples(parts, run, at, now.get("grids"), name)
    now["grids"] = (name, run.grids if run else [])
    if is_new("generate", bool(run and run.progress.state == "finished" and can_generate(run.record))):
        changes[parts.generate] = {"visible": now["generate"]}
    return changes


def _modified(folder: Path) -> list[int]:
    """When the files of a folder that its page reads were last written."""
    names = ("README.md", "config.yaml", "metadata.csv", *(kind.FILE for kind in stages.RESULTS.values()))
    return [path.stat().st_mtime_ns for path in (folder / name for name in names) if path.exists()]


def _report(parts: Parts, folder: Path, place: Path) -> Changes:
    """What other stages than the training report of a folder, its recipe and its card."""
    report = set_page.as_html(set_page.blocks(folder, place))
    texts = (folder / name for name in ("config.yaml", "README.md"))
    recipe, card = (path.read_text(encoding="utf-8") if path.exists() else "" for path in texts)
    return {
        parts.report: {"value": report, "visible": bool(report)},
        parts.recipe_box: {"visible": bool(recipe)},
        parts.recipe: {"value": f"<pre>{html.escape(recipe)}</pre>"},
        parts.card_box: {"visible": bool(card)},
        parts.card: {"value": re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)},
    }


def _samples(
    parts: Parts, run: WatchedRun | None, at: int, before: tuple[str, list[Path]] | None, name: str
) -> Changes:
    """The slider and its grid; at the newest grid it follows those to come."""
    grids = run.grids if run else []
    if before == (name, grids):
        return {}
    if not grids:
        return {part: {"visible": False} for part in (parts.slider, parts.grid, parts.about_grid)}
    last = len(grids)
    follows = before is None or before[0] != name or at >= len(before[1])
    value = last if follows else at
    changes: Changes = {parts.slider: {"maximum": max(2, last), "value": value, "visible": last > 1}}
    if follows:
        grid, about = _grid(run, value)
        changes |= {parts.grid: {"value": grid, "visible": True}, parts.about_grid: {"value": about, "visible": True}}
    return changes


def _grid(run: WatchedRun, at: int) -> tuple[Image.Image, str]:
    """The sample grid at a position of the slider, from 1, and what it shows."""
    path = run.grids[at - 1]
    with Image.open(path) as picture:
        times = max(1, WIDTH // picture.width)  # grids of small images are enlarged
        size = (times * picture.width, times * picture.height)
        grid = picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
        return grid, run_page.about_grid(run.record, step_of(path))


def _offer_generation(folder: Path, place: Path) -> None:
    """The page that generates, for a finished run; what is wrong with the run is shown in its place."""
    try:
        studio = Studio(AppConfig(model=str(folder)), place / folder.name)
    except InputError as error:
        gradio.Markdown(f"This model cannot generate here: {error}")
    else:
        generating.contents(studio)
