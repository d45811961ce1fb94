"""Generation: the same images however they are batched, shared or interrupted, with their provenance."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from hub_server import Repo
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import pil_to_tensor
from world import change

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.loading import to_uint8, to_unit_range
from dermgen.generation.generate import generate
from dermgen.generation.request import class_counts
from dermgen.methods import dreambooth
from dermgen.sampling import Request, generate_missing
from dermgen.settings.dreambooth import DreamboothLoraConfig
from dermgen.settings.generate import GenerateConfig
from dermgen.stable_diffusion.generator import StableDiffusionGenerator
from dermgen.stable_diffusion.pipeline import load_pipeline
from dermgen.training.schedulers import check_steps


def settings(model, folder, **changes):
    base = {"prompt": "malignant skin lesion", "num_images": 5, "num_inference_steps": 3}
    if "classes" in changes or "grid" in changes:
        del base["prompt"]
    return {"model": str(model), "output_dir": str(folder), **base, **changes}


def run(model, folder, **changes) -> Path:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return generate(GenerateConfig(**settings(model, folder, **changes)))


def images(folder) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in sorted((Path(folder) / "images").glob("*.png"))}


def assert_same_images(a, b):
    ours, theirs = images(a), images(b)
    assert ours.keys() == theirs.keys()
    assert max(np.abs(ours[k] - theirs[k]).max() for k in ours) <= 1


@pytest.fixture(scope="module")
def lora_dir(base_dir, manifest_dir, tmp_path_factory) -> Path:
    """A LoRA run that was trained on melanoma with a prompt of its own."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    folder = tmp_path_factory.mktemp("lora") / "run"
    dreambooth.train(
        DreamboothLoraConfig(
            pretrained_model_name_or_path=str(base_dir),
            data_dir=str(manifest_dir),
            instance_class="mel",
            instance_prompt="a dark lesion",
            output_dir=str(folder),
            cache_dir=str(folder.parent / "cache"),
            resolution=32,
            learning_rate=0.1,
            max_train_steps=3,
            lr_warmup_steps=0,
            report_to="none",
        )
    )
    return folder


def test_an_image_depends_on_its_prompt_and_seed_alone(base_dir, tmp_path):
    a = run(base_dir, tmp_path / "a", batch_size=8)
    b = run(base_dir, tmp_path / "b", batch_size=2)
    assert_same_images(a, b)
    shifted = run(base_dir, tmp_path / "c", seed=2)
    ours, theirs = list(images(a).values()), list(images(shifted).values())
    assert np.abs(ours[2] - theirs[0]).max() <= 1
    assert np.abs(ours[0] - theirs[0]).max() > 5


def test_an_interrupted_generation_resumes_and_keeps_the_existing_images(base_dir, tmp_path):
    whole = run(base_dir, tmp_path / "whole")
    part = run(base_dir, tmp_path / "part")
    (part / "images" / "image_00003.png").unlink()
    (part / "images" / ".image_00003.png.partial").write_bytes(b"half an image")
    (part / "metadata.csv").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in (part / "images").glob("*.png")}
    run(base_dir, tmp_path / "part", batch_size=1)
    assert all((part / "images" / n).stat().st_mtime_ns == t for n, t in before.items())
    assert_same_images(whole, part)
    assert (whole / "metadata.csv").read_text() == (part / "metadata.csv").read_text()


@pytest.mark.slow
def test_two_processes_generate_what_one_generates(base_dir, tmp_path):
    one = run(base_dir, tmp_path / "one")
    flags = [f"--{k}={v}" for k, v in settings(base_dir, tmp_path / "two").items()]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "dermgen.cli",
    ]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*launcher, "generate", *flags], env=env, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr
    assert_same_images(one, tmp_path / "two")
    assert (one / "metadata.csv").read_text() == (tmp_path / "two" / "metadata.csv").read_text()


def test_the_manifest_records_how_each_image_was_made_and_datasets_reads_it(lora_dir, tmp_path):
    folder = run(lora_dir, tmp_path / "m", classes="mel:2,df:1", negative_prompt="hair", seed=40)
    table = manifest.read(folder)
    assert list(table["image_id"]) == ["mel_00000", "mel_00001", "df_00000"]
    assert list(table["prompt"]) == ["a dark lesion"] * 2 + ["dermoscopic image of dermatofibroma"]
    assert list(table["seed"]) == ["40", "41", "42"]
    assert set(table["synthetic"]) == {"true"}
    assert set(table["scheduler"]) == {"dpmsolver++"}
    assert set(table["negative_prompt"]) == {"hair"}
    assert all(len(x) == 64 for x in table["model_sha256"])
    assert set(table["split"]) == {""}
    data = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    assert sorted(data["dx"]) == ["df", "mel", "mel"]
    assert (folder / "sheets" / "mel.png").exists()


def test_each_png_states_that_it_is_synthetic_and_its_model(base_dir, tmp_path):
    folder = run(base_dir, tmp_path / "m", num_images=1)
    text = Image.open(folder / "images" / "image_00000.png").text
    assert text["Comment"].startswith("Synthetic image, not a photograph of a patient")
    facts = json.loads(text["dermgen"])
    assert (facts["prompt"], facts["seed"], facts["model"]) == ("malignant skin lesion", 0, base_dir.name)


def test_a_set_records_the_packages_and_the_command_that_generated_it(base_dir, tmp_path):
    folder = run(base_dir, tmp_path / "m", num_images=1)
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["packages"]["torch"] == torch.__version__.split("+")[0]
    assert facts["argv"] == sys.argv


def test_adapter_weight_zero_is_the_base_model_and_one_is_not(base_dir, lora_dir, tmp_path):
    base = run(base_dir, tmp_path / "base")
    assert_same_images(base, run(lora_dir, tmp_path / "zero", adapter_weight=0.0))
    tuned = run(lora_dir, tmp_path / "one")
    assert max(np.abs(a - b).max() for a, b in zip(images(base).values(), images(tuned).values(), strict=True)) > 5


def test_a_lora_file_alone_needs_its_base_named(base_dir, lora_dir, tmp_path):
    file = lora_dir / "pytorch_lora_weights.safetensors"
    with pytest.raises(InputError, match="holds LoRA weights without a record of their base model: give --base_model"):
        run(file, tmp_path / "a")
    assert_same_images(run(file, tmp_path / "b", base_model=str(base_dir)), run(lora_dir, tmp_path / "c"))


def test_a_grid_combines_all_attributes(base_dir, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("dx: [mel, df]\nlocalization: [back]\nage: [35, 65]\nsex: [female]\nskin_tone: [dark skin]\n")
    folder = run(base_dir, tmp_path / "m", grid=str(grid), num_images=2)
    table = manifest.read(folder)
    assert len(table) == 2 * 2 * 2
    assert set(table["prompt"]) == {
        f"dermoscopic image of {name}, back, {age}-year-old female, dark skin"
        for name in ("melanoma", "dermatofibroma")
        for age in (35, 65)
    }
    assert set(table["age"]) == {35, 65}


def test_image_to_image_moves_further_from_the_given_images_at_a_higher_strength(base_dir, manifest_dir, tmp_path):
    names, source = sorted(p.stem for p in (manifest_dir / "images").glob("*.png"))[:5], tmp_path / "five"
    source.mkdir()
    for name in names:
        shutil.copy(manifest_dir / "images" / f"{name}.png", source)
    pipeline = load_pipeline(str(base_dir))
    pixels = torch.stack([pil_to_tensor(Image.open(source / f"{n}.png")) for n in names])
    with torch.no_grad():
        latents = pipeline.vae.encode(to_unit_range(pixels)).latent_dist.mean
        unchanged = to_uint8(pipeline.vae.decode(latents).sample).permute(0, 2, 3, 1).numpy().astype(int)
    moved = {}
    for strength in (0.05, 0.5, 1.0):
        folder = run(
            base_dir, tmp_path / str(strength), init_images=str(source), strength=strength, num_inference_steps=20
        )
        assert list(manifest.read(folder)["source_image_id"]) == names
        # The image itself is passed on, and a photograph's name may be a patient's.
        assert not any(name in Image.open(p).text["dermgen"] for p in (folder / "images").iterdir() for name in names)
        moved[strength] = np.mean(
            [np.abs(a - b).mean() for a, b in zip(images(folder).values(), unchanged, strict=True)]
        )
    assert moved[0.05] < moved[0.5] < moved[1.0]


def test_fewer_images_than_sources_start_from_lesions_of_several_classes(base_dir, manifest_dir, tmp_path):
    source = str(manifest_dir)  # which is sorted by lesion
    folder = run(base_dir, tmp_path / "a", init_images=source, strength=0.1, num_images=7, num_inference_steps=10)
    chosen = manifest.read(manifest_dir).set_index("image_id").loc[list(manifest.read(folder)["source_image_id"])]
    assert chosen["lesion_id"].nunique() == 7
    assert chosen["dx"].nunique() == 7


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "ddpm", "euler", "pndm", "unipc"])
def test_every_scheduler_generates_an_image_from_its_own_seed(base_dir, tmp_path, scheduler):
    a = run(base_dir, tmp_path / "a", scheduler=scheduler, num_images=2, batch_size=2, num_inference_steps=5)
    b = run(base_dir, tmp_path / "b", scheduler=scheduler, num_images=2, batch_size=1, num_inference_steps=5)
    assert_same_images(a, b)


class Hungry:
    """Runs out of memory with more than two images at a time."""

    def __init__(self, most):
        self.most, self.batches = most, []

    def sample(self, labels, seeds):
        self.batches.append(len(labels))
        if len(labels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.tensor(seeds, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)


def test_the_batch_is_halved_when_memory_runs_out_and_no_image_is_lost(tmp_path):
    requests = [Request("x", i, tmp_path / str(i)) for i in range(11)]
    drawn = {}
    generator = Hungry(most=2)
    generate_missing(generator, requests, lambda r, image: drawn.update({r.seed: int(image[0, 0, 0])}), batch_size=8)
    assert drawn == {i: i for i in range(11)}
    assert generator.batches == [8, 4, 2, 2, 2, 2, 2, 1]
    with pytest.raises(InputError, match="not even one image fits into memory"):
        generate_missing(Hungry(most=0), requests, lambda r, image: None, batch_size=2)


def test_a_progress_bar_is_shown_for_several_batches_and_not_for_one(tmp_path, capsys):
    for number, shown in ((4, False), (5, True)):
        requests = [Request("x", i, tmp_path / str(i)) for i in range(number)]
        generate_missing(Hungry(most=4), requests, lambda r, image: None, batch_size=4, desc="pictures")
        assert ("pictures: 100%" in capsys.readouterr().err) == shown


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path):
    class Broken:
        def sample(self, labels, seeds):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        generate_missing(Broken(), [Request("x", 0, tmp_path / "x")], lambda r, image: None, batch_size=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/nowhere"}, "no such model folder"),
        ({"model": "/nowhere", "prompt": None}, "no such model folder"),
        ({"model": "nothere", "prompt": None}, "cannot load 'nothere': "),
        ({"classes": "wart:3"}, "unknown class 'wart': HAM10000 has akiec"),
        ({"classes": "mel"}, "must be like mel:500,df:300, got 'mel'"),
        ({"prompt": None}, "a Stable Diffusion needs one of --prompt, --classes and --grid"),
        ({"classes": "mel:1", "prompt": "x"}, "give only one of --prompt, --classes and --grid"),
        ({"truncation": 0.5}, "--truncation has no meaning for a Stable Diffusion"),
        ({"prompt": ""}, "the prompt '' has no tokens"),
        ({"resolution": 20}, "resolution must be a positive multiple of 8"),
        ({"strength": 0.0}, "strength must be above 0"),
        ({"grid": "/nowhere.yaml"}, "cannot read the grid"),
        ({"init_images": "/nowhere"}, "init_images: no such folder"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be from 0 to 4294967295, got 4294967296"),
        ({"seed": 2**32 - 4}, "seed must be from 0 to 4294967291, got 4294967292"),
        ({"num_inference_steps": 1001}, "num_inference_steps is 1001, but the model was trained with 1000 timesteps"),
        ({"guidance_scale": 0.5}, "guidance_scale must be at least 1 for a Stable Diffusion, got 0.5"),
        ({"adapter_weight": 0.5}, "--adapter_weight has no meaning for .*sd, which is not a LoRA: leave it out"),
        ({"base_model": "other"}, "--base_model has no meaning for .*sd, which is not a LoRA: leave it out"),
        ({"variant": "fp16"}, "sd has no weights of the variant fp16: leave --variant out"),
        ({"model": "my_style.safetensors"}, "no such file: my_style.safetensors"),
        ({"negative_prompt": "hair", "guidance_scale": 1.0}, "--negative_prompt does nothing at --guidance_scale 1.0"),
    ],
)
def test_bad_input_is_refused_with_the_reason(base_dir, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(changes.pop("model", base_dir), tmp_path / "m", **changes)


def test_numbers_of_steps_that_a_scheduler_cannot_take_are_refused_before_a_model_is_loaded(
    base_dir, manifest_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "dermgen.stable_diffusion.base_model.load_pipeline", lambda *_: pytest.fail("a model was loaded")
    )
    images = {"init_images": str(manifest_dir / "images"), "num_inference_steps": 3, "strength": 0.3}
    with pytest.raises(
        InputError, match=r"num_inference_steps 3 x strength 0.3 is less than one step: raise one of them"
    ):
        run(base_dir, tmp_path / "m", **images)
    with pytest.raises(
        InputError, match="the scheduler pndm cannot sample in 1 step: take more steps, or another scheduler"
    ):
        check_steps("pndm", {"num_train_timesteps": 100}, 1)  # of a DDPM, whose schedule has a warm-up in PNDM
    assert not (tmp_path / "m").exists()


def test_a_prompt_that_is_too_long_gives_a_warning_and_the_manifest_has_the_part_that_is_read(
    base_dir, tmp_path, capsys
):
    long = "dermoscopic image of melanoma, " * 9
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({"dx": ["mel"], "localization": ["back", "face"]}))
    template = long + "{localization}"
    folder = run(
        base_dir, tmp_path / "m", grid=str(grid), num_images=1, caption_template=template, negative_prompt=long
    )
    output = capsys.readouterr().out
    assert "3 of 3 prompts are too long for the model and are cut" in output
    assert "3 of them become identical" in output
    table = manifest.read(folder)
    tokenizer = load_pipeline(str(base_dir)).tokenizer
    read = tokenizer(table["prompt_read"][0], add_special_tokens=False).input_ids
    assert read == tokenizer(table["prompt"][0], add_special_tokens=False).input_ids[: tokenizer.model_max_length - 2]
    assert set(table["prompt_read"]) == set(table["negative_prompt_read"]) == {table["prompt_read"][0]}
    facts = json.loads(Image.open(folder / table["file_name"][0]).text["dermgen"])
    assert facts["prompt_read"] == table["prompt_read"][0]
    # What the model reads draws the same image, and is no longer cut.
    short_text = table["prompt_read"][0]
    short = run(base_dir, tmp_path / "s", prompt=short_text, num_images=1, negative_prompt=short_text)
    first, again = (next(iter(images(f).values())) for f in (folder, short))
    assert np.abs(first - again).max() <= 1
    assert "prompt_read" not in manifest.read(short)


def test_an_image_that_a_power_cut_left_empty_or_short_is_generated_again(base_dir, tmp_path):
    folder = run(base_dir, tmp_path / "m", num_images=3)
    before = images(folder)
    (folder / "images" / "image_00000.png").write_bytes(b"")
    path = folder / "images" / "image_00001.png"
    path.write_bytes(path.read_bytes()[:-20])
    run(base_dir, tmp_path / "m", num_images=3)
    assert all(np.abs(a - b).max() <= 1 for a, b in zip(before.values(), images(folder).values(), strict=True))


def test_other_settings_in_the_same_folder_are_refused(base_dir, tmp_path):
    run(base_dir, tmp_path / "m", num_images=1)
    with pytest.raises(InputError, match=r"guidance_scale was None and is 3\.0"):
        run(base_dir, tmp_path / "m", num_images=1, guidance_scale=3.0)


def test_other_weights_behind_the_same_path_are_refused_if_the_folder_has_images(base_dir, tmp_path):
    shutil.copytree(base_dir, tmp_path / "model")
    run(tmp_path / "model", tmp_path / "m", num_images=1)
    path = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * 1.01 for k, v in load_file(path).items()}, path)
    with pytest.raises(InputError, match="images of other prompts, weights or initial images"):
        run(tmp_path / "model", tmp_path / "m", num_images=1)


def test_a_lora_run_generates_with_the_prediction_type_it_was_trained_with(base_dir, lora_dir, tmp_path):
    shutil.copytree(lora_dir, tmp_path / "lora")
    config = tmp_path / "lora" / "config.yaml"
    config.write_text(config.read_text().replace("prediction_type: null", "prediction_type: epsilon"))
    other, own = run(tmp_path / "lora", tmp_path / "a"), run(lora_dir, tmp_path / "b")
    assert max(np.abs(a - b).max() for a, b in zip(images(other).values(), images(own).values(), strict=True)) > 5


def test_an_unfinished_run_is_refused(lora_dir, tmp_path):
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text((lora_dir / "config.yaml").read_text())
    with pytest.raises(InputError, match="has no final weights yet"):
        run(unfinished, tmp_path / "m")


def test_a_set_carries_the_watermark_on_request(base_dir, tmp_path, capsys):
    from dermgen import watermark

    plain, marked = (run(base_dir, tmp_path / n, num_images=2, resolution=64, watermark=n == "b") for n in "ab")
    hidden = set()
    for path in sorted((plain / "images").glob("*.png")):
        before, after = (np.asarray(Image.open(folder / "images" / path.name)) for folder in (plain, marked))
        assert np.array_equal(after, watermark.embed(before))
        assert not np.array_equal(after, before)
        if watermark.detect(after) <= watermark.THRESHOLD:
            hidden.add(path.name)
    output = "".join(capsys.readouterr())
    assert hidden == {name for name in ("image_00000.png", "image_00001.png") if f"{name} is too busy" in output}


def test_an_image_that_hides_the_watermark_is_named_and_no_other(base_dir, tmp_path, monkeypatch, capsys):
    """Black and white noise hides it, a grey image does not."""
    noise = torch.randint(0, 2, (3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8) * 255
    drawn = torch.stack([noise, torch.full((3, 64, 64), 128, dtype=torch.uint8)])
    monkeypatch.setattr(StableDiffusionGenerator, "sample", lambda self, labels, seeds: drawn[list(seeds)])
    run(base_dir, tmp_path / "m", num_images=2, resolution=64, watermark=True)
    output = "".join(capsys.readouterr())
    assert "image_00000.png is too busy for the watermark" in output
    assert "image_00001.png" not in output


def test_classes_may_have_commas_and_colons():
    assert class_counts("mel:500, df:3") == [("mel", 500), ("df", 3)]
    assert class_counts("nevus, NOS:2,type 1:b:4,") == [("nevus, NOS", 2), ("type 1:b", 4)]
    for wrong in ("mel", "mel:0", "mel:-1", "", ":3"):
        with pytest.raises(InputError, match="must be like mel:500,df:300"):
            class_counts(wrong)


def test_the_base_of_a_lora_run_is_found_in_its_recorded_folder_and_recognised_by_its_weights(
    base_dir, lora_dir, tmp_path, monkeypatch
):
    """A run that was given a relative path is drawn from in another folder, which has another model of that name."""
    here, there = tmp_path / "here", tmp_path / "there"
    run_dir = shutil.copytree(lora_dir, tmp_path / "lora")
    shutil.copytree(base_dir, here / "sd")
    shutil.copytree(base_dir, there / "sd")
    path = there / "sd" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * 1.3 for k, v in load_file(path).items()}, path)
    config, provenance = run_dir / "config.yaml", run_dir / "provenance.json"
    config.write_text(config.read_text().replace(str(base_dir), "sd"))
    facts = json.loads(provenance.read_text())
    assert facts["base_path"] == str(base_dir.resolve())
    provenance.write_text(json.dumps(facts | {"base_path": str(here / "sd")}))
    monkeypatch.chdir(there)
    first = run(run_dir, tmp_path / "a", num_images=1)
    assert_same_images(first, run(lora_dir, tmp_path / "b", num_images=1))
    # It has moved: another model of that name is refused; the right one can be given, and is the same model then.
    (here / "sd").rename(tmp_path / "moved")
    with pytest.raises(
        InputError, match="sd has other weights than the base model that .* was trained on: give the folder"
    ):
        run(run_dir, tmp_path / "c", num_images=1)
    moved = run(run_dir, tmp_path / "d", num_images=1, base_model=str(tmp_path / "moved"))
    assert_same_images(first, moved)
    assert list(manifest.read(first)["model_sha256"]) == list(manifest.read(moved)["model_sha256"])
    shutil.rmtree(there / "sd")
    with pytest.raises(InputError, match="is no longer in .*here/sd: give its new folder with --base_model"):
        run(run_dir, tmp_path / "c", num_images=1)


def test_a_base_on_the_hub_is_fetched_by_its_id_and_another_kind_of_model_is_not(base_dir, lora_dir, hub, tmp_path):
    """The cache is empty at first, so that nothing may depend on it."""
    files = {p.relative_to(base_dir).as_posix(): p.read_bytes() for p in base_dir.rglob("*") if p.is_file()}
    hub.repos["model", "someone/base"] = Repo(files=files, private=False)
    run_dir = shutil.copytree(lora_dir, tmp_path / "lora")
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(base_dir), "someone/base"))
    change(run_dir / "provenance.json", base_path=None)
    there = run(run_dir, tmp_path / "a", num_images=1)
    here = run(lora_dir, tmp_path / "b", num_images=1)
    assert_same_images(there, here)
    assert list(manifest.read(there)["model_sha256"]) == list(manifest.read(here)["model_sha256"])
    change(run_dir / "provenance.json", base_sha256="of other weights")
    with pytest.raises(InputError, match="someone/base has other weights than the base model"):
        run(run_dir, tmp_path / "c", num_images=1)
    index = json.dumps({"_class_name": "StableDiffusionXLPipeline"}).encode()
    hub.repos["model", "someone/xl"] = Repo(files={**files, "model_index.json": index}, private=False)
    with pytest.raises(InputError, match="someone/xl is a StableDiffusionXLPipeline, not a Stable Diffusion"):
        run("someone/xl", tmp_path / "d", num_images=1)
    assert not hub.asked("xl.*safetensors")


def test_a_run_without_the_hash_of_its_base_model_still_generates(base_dir, lora_dir, tmp_path, monkeypatch, capsys):
    old = shutil.copytree(lora_dir, tmp_path / "old")
    shutil.copytree(base_dir, tmp_path / "sd")
    config, provenance = old / "config.yaml", old / "provenance.json"
    config.write_text(config.read_text().replace(str(base_dir), "sd"))
    facts = json.loads(provenance.read_text())
    provenance.write_text(json.dumps({k: v for k, v in facts.items() if k not in ("base_path", "base_sha256")}))
    monkeypatch.chdir(tmp_path)
    assert_same_images(run(old, tmp_path / "a", num_images=1), run(lora_dir, tmp_path / "b", num_images=1))
    assert f"does not record which base model it had; {tmp_path / 'sd'} is used" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_initial_images_are_taken_from_the_split_that_init_split_names(base_dir, manifest_dir, tmp_path, split):
    folder = run(base_dir, tmp_path / "a", init_images=str(manifest_dir), init_split=split, num_images=2)
    table = manifest.read_real(manifest_dir)
    used = manifest.read_synthetic(folder)["source_image_id"]
    assert set(used) <= set(table.loc[table["split"] == split, "image_id"])
