"""The page that generates: inputs, samples with the nearest training images, and their download."""

import gradio

from dermgen.app.studio import Studio
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.phantom import SITES
from dermgen.labels import from_labels

BANNER = (
    "**The samples are synthetic.** They are not photographs of patients, not for diagnosis, and not "
    "evidence of how a disease looks."
)
MOST = 16


def build(studio: Studio) -> gradio.Blocks:
    """The page of one model."""
    with gradio.Blocks(title="dermgen", analytics_enabled=False) as page:
        contents(studio)
    return page


def contents(studio: Studio) -> None:
    """Inputs, samples and the button to download them, as a part of a page.

    Inputs are declared interactive, which Gradio does not find out itself where a part is made later than its page.
    """
    gradio.Markdown(BANNER, elem_classes="banner", elem_id="banner")
    with gradio.Row():
        with gradio.Column(scale=1, min_width=280):
            inputs = [*_inputs_of_content(studio), *_inputs_of_generation(studio)]
            button = gradio.Button("Generate", variant="primary", elem_id="draw")
            download = gradio.DownloadButton("Download with provenance", interactive=False, elem_id="download")
        with gradio.Column(scale=2):
            gradio.Markdown(studio.legend(), elem_id="legend")
            gallery = gradio.Gallery(
                show_label=False, columns=4, object_fit="contain", format="png", elem_id="gallery", height="auto"
            )
    button.click(lambda *values: _on_click(studio, *values), inputs, [gallery, download])


def _inputs_of_content(studio: Studio) -> list[gradio.components.Component]:
    """What the images show: prompt, class, site, sex, age."""
    names = from_labels(studio.classes)
    prompt = gradio.Textbox(
        label="Prompt (empty: from the attributes below)",
        value=studio.record.settings.get("instance_prompt") or "",
        visible=studio.takes_prompts,
        interactive=True,
        elem_id="prompt",
    )
    dx = gradio.Dropdown(
        [(f"{names[c].name} ({c})", c) for c in studio.classes],
        label="Class",
        value=(studio.classes or [None])[0],
        visible=bool(studio.classes),
        interactive=True,
    )
    with gradio.Row(visible=studio.takes_prompts):
        site = gradio.Dropdown(["", *SITES], label="Site", value="", interactive=True)
        sex = gradio.Dropdown(["", "female", "male"], label="Sex", value="", interactive=True)
        age = gradio.Number(label="Age", value=None, minimum=0, maximum=120, precision=0, interactive=True)
    return [prompt, dx, site, sex, age]


def _inputs_of_generation(studio: Studio) -> list[gradio.components.Component]:
    """How they are generated: number, seed, steps, guidance."""
    with gradio.Row():
        number = gradio.Slider(1, MOST, 4, step=1, label="Images", interactive=True, elem_id="number")
        seed = gradio.Number(label="Seed", value=0, precision=0, minimum=0, interactive=True, elem_id="seed")
    with gradio.Row(visible=studio.takes_steps):
        steps = gradio.Slider(1, 100, 25, step=1, label="Steps", interactive=True, elem_id="steps")
        default = 7.5 if studio.takes_prompts else 1
        guidance = gradio.Slider(1, 15, default, step=0.5, label="Guidance", interactive=True, elem_id="guidance")
    return [number, seed, steps, guidance]


def _on_click(
    studio: Studio, prompt, dx, site, sex, age, number, seed, steps, guidance
) -> tuple[list[tuple], gradio.DownloadButton]:
    """Generate what the inputs request: the pictures with their captions, and the button with their file."""
    attributes = {"dx": dx, "localization": site, "sex": sex, "age": None if age is None else int(age)}
    requested = {"prompt": prompt.strip()} if prompt.strip() else attributes
    try:
        folder = studio.generate(requested, number, seed, steps, guidance)
    except InputError as error:
        raise gradio.Error(str(error)) from error
    table = manifest.read(folder)
    cut = set(table.get("prompt_read", [])) - {""}
    if cut:
        gradio.Warning(f"The prompt is too long: the model reads only {min(cut)!r}")
    pictures = [(str(folder / row["file_name"]), f"synthetic, seed {row['seed']}") for row in table.to_dict("records")]
    partners = studio.nearest(folder)
    if partners is not None:
        pictures = [picture for both in zip(pictures, partners, strict=True) for picture in both]
    return pictures, gradio.DownloadButton(value=str(studio.zip(folder)), interactive=True)
