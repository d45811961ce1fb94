"""DreamBooth, full and LoRA: files, resuming, prior preservation, options, bad input."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file, save_file

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.methods import dreambooth
from dermgen.settings.dreambooth import DreamboothConfig, DreamboothLoraConfig
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.class_images import class_images

LORA = "pytorch_lora_weights.safetensors"


def fresh():
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def settings(base_dir, manifest_dir, output_dir, **changes):
    return {
        "pretrained_model_name_or_path": str(base_dir),
        "data_dir": str(manifest_dir),
        "output_dir": str(output_dir),
        "resolution": 32,
        "train_batch_size": 2,
        "max_train_steps": 3,
        "checkpointing_steps": 2,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 0,
        "report_to": "none",
        "logging_steps": 1,
        **changes,
    }


@pytest.fixture
def train(base_dir, manifest_dir, tmp_path):
    def lora(name="run", full=False, **changes):
        fresh()
        kind = DreamboothConfig if full else DreamboothLoraConfig
        dreambooth.train(kind(**settings(base_dir, manifest_dir, tmp_path / name, **changes)))
        return tmp_path / name

    return lora


def losses(folder):
    return [json.loads(x).get("loss") for x in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_equal_files(a: Path, b: Path):
    ours, theirs = load_file(a), load_file(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_lora_leaves_the_files_that_diffusers_script_leaves(train):
    folder = train(train_text_encoder=True, lora_alpha=8.0)
    assert {p.name for p in folder.iterdir()} >= {
        LORA,
        "checkpoint-2",
        "checkpoint-3",
        "config.yaml",
        "provenance.json",
    }
    assert {p.name for p in (folder / "checkpoint-2").iterdir()} >= {LORA, "optimizer.bin", "random_states_0.pkl"}
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["reloaded_output_difference"] < 1e-4


def test_full_training_leaves_a_pipeline_and_checkpoints_with_unet_folders(train):
    folder = train(full=True, train_text_encoder=True)
    assert (folder / "model_index.json").exists()
    for part in ("unet", "text_encoder"):
        assert (folder / "checkpoint-2" / part / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"full": True, "train_text_encoder": True, "ema_decay": 0.9},
        {"train_text_encoder": True, "lora_dropout": 0.2, "use_dora": True, "gradient_accumulation_steps": 2},
    ],
)
def test_a_resumed_training_ends_with_the_same_weights(train, options):
    whole = train("whole", **options)
    train("cut", **options)
    shutil.rmtree(whole.parent / "cut" / "checkpoint-3")
    cut = train("cut", **options)
    name = LORA if not options.get("full") else "unet/diffusion_pytorch_model.safetensors"
    assert_equal_files(whole / name, cut / name)
    assert losses(whole) == losses(cut)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [True, False])
def test_accumulation_gives_the_losses_of_a_larger_batch_noise_flips_and_dropped_captions_included(train, cache):
    options = {
        "cache_latents": cache,
        "random_flip": True,
        "caption_dropout": 0.3,
        "snr_gamma": 5.0,
        "offset_noise": True,
    }
    large = train("a", train_batch_size=4, **options)
    small = train("b", train_batch_size=2, gradient_accumulation_steps=2, **options)
    assert losses(large) == pytest.approx(losses(small), rel=1e-4)


def test_caching_changes_nothing_but_rounding(train):
    options = {"random_flip": True, "mask_loss_weight": 3.0}
    on = train("on", **options)
    off = train("off", cache_latents=False, pre_compute_text_embeddings=False, **options)
    assert losses(on) == pytest.approx(losses(off), rel=1e-4)


@pytest.mark.slow
def test_prior_preservation_adds_the_weighted_loss_of_generated_class_images(train, tmp_path):
    options = {
        "instance_class": "mel",
        "instance_prompt": "a melanoma",
        "with_prior_preservation": True,
        "class_prompt": ["a nevus"],
        "class_data_dir": str(tmp_path / "class"),
        "num_class_images": 3,
    }
    one = train("one", **options, prior_loss_weight=1.0)
    made = sorted(p.name for p in (tmp_path / "class").iterdir())
    assert len(made) == 3
    zero = train("zero", **options, prior_loss_weight=0.0)
    two = train("two", **options, prior_loss_weight=2.0)
    first = [losses(folder)[0] for folder in (zero, one, two)]
    assert first[1] - first[0] > 0.1
    assert first[2] - first[0] == pytest.approx(2 * (first[1] - first[0]), rel=1e-4)
    assert sorted(p.name for p in (tmp_path / "class").iterdir()) == made


@pytest.mark.slow
def test_class_images_are_reused_only_for_the_same_prompt_and_own_images_count(train, tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    Image.new("RGB", (40, 50), (200, 150, 120)).save(folder / "my own.jpg")
    options = {"with_prior_preservation": True, "class_data_dir": str(folder), "num_class_images": 3}
    train("a", class_prompt=["a nevus"], **options)
    assert len(list(folder.iterdir())) == 3
    train("b", class_prompt=["a mole"], **options)
    assert len(list(folder.iterdir())) == 5
    assert (folder / "my own.jpg").exists()
    with pytest.raises(InputError, match="holds images of your own, such as my own.jpg, but 2 class prompts are given"):
        train("c", class_prompt=["a nevus", "a mole"], **options)


def test_class_prompts_take_turns_and_each_image_is_that_of_its_prompt_alone(base_dir, tmp_path):
    def made(name, prompts, number):
        base, accelerator = BaseModel(str(base_dir)), Accelerator()
        return class_images(tmp_path / name, prompts, number, base, base.load(), accelerator, batch_size=2, seed=0)

    both, second = made("both", ["a nevus", "a mole"], 4), made("one", ["a mole"], 4)
    assert [e.prompt for e in both] == ["a nevus", "a mole"] * 2
    assert [Path(e.path).name for e in both][1::2] == [Path(e.path).name for e in second][1::2]
    for of_two, alone in zip(both[1::2], second[1::2], strict=True):
        assert Path(of_two.path).read_bytes() == Path(alone.path).read_bytes()
    assert len({Path(e.path).read_bytes() for e in both}) == 4


@pytest.mark.slow
def test_a_folder_of_plain_images_of_any_shape_is_cropped_at_random(train, tmp_path, manifest_dir):
    folder = tmp_path / "instances"
    folder.mkdir()
    for i, size in enumerate([(60, 40), (40, 70), (50, 50)]):
        Image.new("RGB", size, (60 * i, 90, 120)).save(folder / f"{i}.png")
    for name in (".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"not an image")
    options = {"data_dir": None, "instance_data_dir": str(folder), "instance_prompt": "a lesion"}
    a = train("a", train_batch_size=4, **options)
    b = train("b", train_batch_size=1, gradient_accumulation_steps=4, **options)
    assert losses(a) == pytest.approx(losses(b), rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_first_loss_of_an_untrained_step_is_the_mean_squared_error_computed_by_hand(
    train, base_dir, manifest_dir, kind
):
    from dermgen.data.examples import manifest_examples
    from dermgen.data.loading import to_unit_range
    from dermgen.stable_diffusion.pipeline import load_pipeline
    from dermgen.training.draws import Order, derive_seed

    folder = train(prediction_type=kind, cache_latents=False, train_batch_size=3, max_train_steps=1)
    pipeline = load_pipeline(str(base_dir))
    examples = manifest_examples(manifest_dir, "train")
    order = Order(len(examples), 0, 0)
    scheduler, alphas = pipeline.scheduler, pipeline.scheduler.alphas_cumprod
    errors = []
    for k in range(3):
        example, rng = examples[order[k]], torch.Generator().manual_seed(derive_seed(0, 0, k))
        from torchvision.transforms.functional import pil_to_tensor

        with torch.no_grad():
            posterior = pipeline.vae.encode(to_unit_range(pil_to_tensor(Image.open(example.path)))[None]).latent_dist
            latents = (posterior.mean + posterior.std * torch.randn(4, 16, 16, generator=rng)) * 0.5
            noise, t = torch.randn(4, 16, 16, generator=rng), torch.randint(1000, (), generator=rng)
            ids = pipeline.tokenizer(example.prompt, padding="max_length", return_tensors="pt").input_ids
            a, s = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
            predicted = pipeline.unet(a * latents + s * noise, t, pipeline.text_encoder(ids)[0]).sample
            target = noise if kind == "epsilon" else a * noise - s * latents
            errors.append((predicted - target).pow(2).mean())
    assert scheduler.config.num_train_timesteps == 1000
    assert losses(folder)[0] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)


@pytest.mark.slow
def test_training_lowers_the_held_out_loss_and_writes_grids_of_the_base_and_the_tuned_model(train):
    folder = train(
        max_train_steps=60,
        train_batch_size=8,
        held_out_steps=30,
        validation_prompt=["a melanoma", "a nevus"],
        num_validation_images=2,
        validation_steps=60,
        max_images_per_class=4,
        rank=8,
    )
    untrained = train("untrained", max_train_steps=1, learning_rate=0.0, held_out_steps=1)
    before, *after = (
        (line["step"], line["held_out_loss"])
        for run in (untrained, folder)
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "held_out_loss" in line
    )
    assert [step for step, _ in after] == [30, 60]
    assert after[-1][1] < 0.97 * before[1]
    grid = Image.open(folder / "samples" / "step-60.png")
    assert grid.size == (2 * 36 + 4, 4 * 36 + 4)  # a row of base images and one of tuned images for each prompt
    top, bottom = (grid.crop((4, y, 36, y + 32)).tobytes() for y in (4, 40))
    assert top != bottom


def test_a_grid_without_the_base_model_has_the_same_tuned_rows(train):
    grids = {"validation_prompt": ["a melanoma", "a nevus"], "num_validation_images": 1, "validation_steps": 1}
    both, tuned = (
        Image.open(train(str(shown), max_train_steps=1, validation_base_rows=shown, **grids) / "samples" / "step-1.png")
        for shown in (True, False)
    )
    assert tuned.size == (36 + 4, 2 * 36 + 4)
    for row in range(2):
        expected, drawn = (y + 4 for y in ((2 * row + 1) * 36, row * 36))
        assert both.crop((4, expected, 36, expected + 32)) == tuned.crop((4, drawn, 36, drawn + 32))


@pytest.mark.slow
@pytest.mark.parametrize("full", [True, False])
def test_epochs_between_grids_count_in_place_of_the_default_steps(train, full):
    grids = {"validation_prompt": ["a nevus"], "num_validation_images": 1, "validation_epochs": 1}
    folder = train(full=full, max_images_per_class=1, train_batch_size=4, max_train_steps=5, **grids)
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["step-2.png", "step-4.png", "step-5.png"]


@pytest.mark.parametrize("full", [True, False])
def test_all_trained_parts_are_saved_as_their_averages(train, full):
    folder = train(full=full, train_text_encoder=True, ema_decay=0.9)
    average = load_file(folder / "checkpoint-3" / "ema.safetensors")
    parts = ("unet", ""), ("text_encoder", "model_1.")
    for part, prefix in parts if full else ():
        (path,) = (folder / part).glob("*.safetensors")
        saved, last = load_file(path), load_file(folder / "checkpoint-3" / part / path.name)
        for name, value in saved.items():
            assert torch.equal(value, average[prefix + name]), name
        assert any(not torch.equal(value, last[name]) for name, value in saved.items())
    if not full:
        saved, last = load_file(folder / LORA), load_file(folder / "checkpoint-3" / LORA)
        moved = {name.split(".")[0] for name in saved if not torch.equal(saved[name], last[name])}
        assert moved == {"unet", "text_encoder"}


@pytest.mark.slow
def test_a_run_whose_older_version_averaged_the_unet_alone_is_resumed(train):
    options = {"full": True, "train_text_encoder": True, "ema_decay": 0.9}
    folder = train(**options)
    shutil.rmtree(folder / "checkpoint-3")
    path = folder / "checkpoint-2" / "ema.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("model_1.")}, path)
    train(**options)
    assert (folder / "checkpoint-3").is_dir()


def test_class_images_have_the_size_of_the_model_not_of_the_training(train, tmp_path):
    options = {"with_prior_preservation": True, "class_prompt": ["a nevus"], "class_data_dir": str(tmp_path / "class")}
    train(resolution=16, num_class_images=2, max_train_steps=1, **options)
    assert [Image.open(path).size for path in (tmp_path / "class").iterdir()] == [(32, 32)] * 2


@pytest.mark.slow
def test_the_last_step_has_a_grid_also_with_averaged_weights(train):
    grids = {"validation_prompt": ["a nevus"], "num_validation_images": 1, "validation_steps": 2}
    folder = train(full=True, ema_decay=0.9, **grids)
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["step-2.png", "step-3.png"]


def test_a_whole_pipeline_trained_in_bf16_keeps_its_frozen_parts_exact(train, base_dir):
    folder = train(full=True, mixed_precision="bf16")
    for part, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        assert_equal_files(base_dir / part / f"{name}.safetensors", folder / part / f"{name}.safetensors")


@pytest.mark.slow
def test_a_leaky_manifest_marks_the_run_and_the_images_that_it_generates(train, phantoms, tmp_path):
    from dermgen.data.prepare import PrepareConfig, prepare
    from dermgen.generation.generate import generate
    from dermgen.settings.generate import GenerateConfig

    raw = {"source": "ham10000", "data_dir": str(phantoms), "output_dir": str(tmp_path / "leaky")}
    prepare(PrepareConfig(**raw, resolution=32, num_workers=1, allow_leaky_split=True))
    folder = train(data_dir=str(tmp_path / "leaky"))
    assert json.loads((folder / "provenance.json").read_text())["leaky"] is True
    fresh()
    drawn = generate(
        GenerateConfig(
            model=str(folder), output_dir=str(tmp_path / "s"), prompt="mole", num_images=1, num_inference_steps=2
        )
    )
    assert manifest.is_leaky(manifest.read(drawn))


def test_instance_images_are_of_one_class_and_one_per_lesion_first(manifest_dir):
    from dermgen.data.examples import manifest_examples

    table = manifest.read(manifest_dir)
    train = table[(table["dx"] == "mel") & (table["split"] == "train")]
    number = train["lesion_id"].nunique()
    chosen = manifest_examples(manifest_dir, "train", "mel", limit=number)
    lesions = table.set_index("image_id").loc[[e.image_id for e in chosen], "lesion_id"]
    assert lesions.nunique() == number
    assert {e.prompt for e in chosen} <= set(train["caption"])
    of_any_class = manifest_examples(manifest_dir, "train", limit=14)
    assert set(table.set_index("image_id").loc[[e.image_id for e in of_any_class], "dx"]) == set(table["dx"])


def test_the_held_out_images_are_of_every_class_in_its_share(tested_dir, tmp_path):
    settings = {"data_dir": str(tested_dir), "output_dir": str(tmp_path), "pretrained_model_name_or_path": "x"}
    config = DreamboothConfig(**settings, held_out_steps=1, held_out_images=10)
    table = manifest.read(tested_dir).set_index("image_id")
    shares = table.loc[table["split"] == "val", "dx"].value_counts(normalize=True)
    counts = table.loc[[e.image_id for e in dreambooth._held_out(config)], "dx"].value_counts()
    assert counts.sum() == 10
    for dx, share in shares.items():
        assert abs(counts.get(dx, 0) - 10 * share) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_bf16_trains_with_class_images_and_grids_and_starts_at_the_loss_of_float32(train, tmp_path, full):
    exact, half = (
        train(
            name,
            full=full,
            train_text_encoder=True,
            mixed_precision=name,
            prior_generation_precision="bf16",
            with_prior_preservation=True,
            class_prompt=["a nevus"],
            class_data_dir=str(tmp_path / "class"),
            num_class_images=2,
            validation_prompt=["a melanoma"],
            num_validation_images=2,
            validation_steps=3,
            gradient_checkpointing=True,
        )
        for name in ("no", "bf16")
    )
    assert (half / "samples" / "step-3.png").exists()
    assert losses(exact)[0] == pytest.approx(losses(half)[0], rel=0.02)
    assert losses(exact) != losses(half)


def test_another_base_model_behind_the_same_path_is_refused_on_resume(train, base_dir, tmp_path):
    base = shutil.copytree(base_dir, tmp_path / "sd")
    train(pretrained_model_name_or_path=str(base), max_train_steps=1)
    path = base / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(path).items()}, path)
    with pytest.raises(InputError, match="run was trained from another model than .*sd holds now"):
        train(pretrained_model_name_or_path=str(base))


def test_changed_settings_on_resume_are_refused(train):
    train()
    with pytest.raises(InputError, match="rank was 4 and is 8"):
        train(rank=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": "/nowhere"}, "no such folder: /nowhere"),
        ({"data_dir": None, "instance_data_dir": "/nowhere", "instance_prompt": "x"}, "no such folder: /nowhere"),
        ({"data_dir": None}, "give either --instance_data_dir"),
        ({"instance_class": "wart"}, "unknown class 'wart': .* has akiec, bcc"),
        ({"num_instance_images": 10_000}, "10,000 images asked for"),
        ({"resolution": 33}, "resolution must be a positive multiple of 8, got 33"),
        ({"pretrained_model_name_or_path": "/nowhere"}, "no such model folder"),
        ({"with_prior_preservation": True}, "needs --class_data_dir and --class_prompt"),
        ({"train_text_encoder": True, "pre_compute_text_embeddings": True}, "cannot be used with"),
        ({"instance_prompt": " "}, "the prompt ' ' has no tokens"),
        ({"lora_target_modules": ["nothing"]}, "no layer of the UNet matches"),
        ({"mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"use_8bit_adam": True}, "bitsandbytes is not installed"),
        ({"enable_xformers_memory_efficient_attention": True}, "xformers is not installed"),
        ({"report_to": "wandb"}, "wandb is not installed"),
        ({"num_class_images": 0}, "num_class_images must be at least 1"),
        ({"snr_gamma": 0.0}, "snr_gamma must be above 0"),
        ({"seed": 2**32}, "seed must be from 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"validation_steps": 0}, "validation_steps must be at least 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"image_interpolation_mode": "foo"}, "image_interpolation_mode must be one of"),
        ({"held_out_images": 0}, "held_out_images must be at least 1"),
        ({"lora_dropout": 2.0}, r"lora_dropout must be in \[0, 1\)"),
        ({"adam_beta1": 1.5}, r"adam_beta1 must be in \[0, 1\)"),
    ],
)
def test_bad_input_is_refused_with_the_reason(train, changes, message):
    with pytest.raises(InputError, match=message):
        train(**changes)


def test_files_and_options_that_would_be_ignored_give_a_warning_or_an_error(
    train, manifest_dir, base_dir, tmp_path, capsys
):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(next((manifest_dir / "images").iterdir()), folder / "a.png")
    given = {"data_dir": None, "instance_data_dir": str(folder), "instance_prompt": "a lesion", "max_train_steps": 1}
    (folder / "a.txt").write_text("a melanoma on the back")
    (folder / "licence.txt").write_text("of no image")
    train(class_prompt=["a mole"], **given)
    output = capsys.readouterr().out
    assert (
        "1 caption file beside the images (such as a.txt) will not be read, because all images get --instance_prompt"
        in output
    )
    assert "--class_prompt and --class_data_dir are not used without --with_prior_preservation" in output
    own = {"with_prior_preservation": True, "class_data_dir": f"{folder}/", "class_prompt": ["a mole"]}
    with pytest.raises(InputError, match="is given as instance_data_dir and class_data_dir"):
        train("b", **given, **own)
    (folder / "more" / "deep").mkdir(parents=True)
    shutil.copy(folder / "a.png", folder / "more" / "deep" / "b.png")
    with pytest.raises(InputError, match=r"images in folders inside it \(as more/deep/b.png\), which are not read"):
        train("b", **given)


def test_an_empty_or_damaged_image_folder_is_refused(train, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    options = {"data_dir": None, "instance_data_dir": str(folder), "instance_prompt": "x"}
    with pytest.raises(InputError, match="has no images"):
        train(**options)
    (folder / "a.png").write_bytes(b"no")
    with pytest.raises(InputError, match="1 of 1 image cannot be read"):
        train(**options)


def test_a_run_records_the_images_that_it_and_its_base_model_were_trained_on(train, manifest_dir):
    from dermgen.data.cache import hash_file
    from dermgen.data.trained_on import TrainedOn

    base = train("base", full=True)
    table = manifest.read(manifest_dir)
    own = TrainedOn.read(base).sha256
    assert own
    assert own <= {hash_file(manifest_dir / name) for name in table.loc[table["split"] == "train", "file_name"]}
    above = train("above", pretrained_model_name_or_path=str(base), instance_class="nv", instance_prompt="a nevus")
    nevi = {hash_file(manifest_dir / n) for n in table.query("split == 'train' and dx == 'nv'")["file_name"]}
    assert TrainedOn.read(above).sha256 == own | nevi


@pytest.mark.slow
def test_offset_noise_is_added_at_its_strength(train):
    first = {
        strength: losses(train(str(strength), max_train_steps=1, offset_noise=True, offset_noise_strength=strength))[0]
        for strength in (0.0, 0.1, 1.0)
    }
    assert first[0.0] == losses(train(max_train_steps=1))[0]
    assert len(set(first.values())) == 3
