"""What every method that is trained from scratch promises: training, resuming, sampling, generation, filtering."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from small import colours, config, train

from dermgen import runs
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.evaluate.audit import AuditConfig, audit
from dermgen.filtering import FilterConfig, filter_images
from dermgen.generation.generate import generate
from dermgen.settings.generate import GenerateConfig
from dermgen.settings.methods import FROM_SCRATCH
from dermgen.training.lesions import read_lesions

ROOT = Path(__file__).parents[2]
GANS = [name for name, method in FROM_SCRATCH.items() if method.judges]
WITH_CLASSES = [name for name, method in FROM_SCRATCH.items() if not method.translates]
every_method = pytest.mark.parametrize("name", FROM_SCRATCH)


def fresh():
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def final_weights(folder):
    paths = sorted(
        p for method in FROM_SCRATCH.values() for name in method.networks for p in (folder / name).glob("*.safetensors")
    )
    assert paths
    return {p.parent.name: load_file(p) for p in paths}


def assert_same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for network in a:
        for key, value in a[network].items():
            torch.testing.assert_close(value, b[network][key], rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def trained(tested_dir, tmp_path_factory):
    """A finished run of each method, 4 steps long, made once."""
    made = {}

    def folder(name):
        if name not in made:
            fresh()
            made[name] = tmp_path_factory.mktemp(name) / "run"
            train(name, tested_dir, made[name], max_train_steps=4, validation_steps=2)
        return made[name]

    return folder


def draw(run, folder, manifest_dir, **changes):
    fresh()
    name = json.loads((run / "provenance.json").read_text())["method"]
    if name == "cyclegan":
        request = {"init_images": str(manifest_dir)}
    else:
        request = {"classes": "mel:2,nv:3"} | ({"num_inference_steps": 2} if name == "ddpm" else {})
    generate(GenerateConfig(model=str(run), output_dir=str(folder), batch_size=2, **{**request, **changes}))
    return manifest.read(folder)


@pytest.mark.slow
@every_method
def test_a_resumed_run_ends_with_the_same_bits(name, manifest_dir, tmp_path):
    settings = {"ema_decay": 0.9, "checkpointing_steps": 3, "random_flip": True, "random_crop": 0.8}
    train(name, manifest_dir, tmp_path / "whole", max_train_steps=6, **settings)
    if name == "cyclegan":  # its learning rate falls from the middle of the training on
        settings["decay_start"] = 1.0
        fresh()
        train(name, manifest_dir, tmp_path / "whole1", max_train_steps=6, **settings)
    fresh()
    train(name, manifest_dir, tmp_path / "parts", max_train_steps=3, **settings)
    fresh()
    train(name, manifest_dir, tmp_path / "parts", max_train_steps=6, **settings)
    whole = tmp_path / ("whole1" if name == "cyclegan" else "whole")
    assert_same(final_weights(whole), final_weights(tmp_path / "parts"))


@pytest.mark.slow
@every_method
def test_training_leaves_grids_curves_networks_and_what_it_was_trained_on(name, trained, tested_dir):
    run = trained(name)
    assert (run / "samples" / "step-4.png").exists()
    assert (run / "plots" / "losses.png").exists()
    facts = json.loads((run / "provenance.json").read_text())
    assert facts["method"] == name
    assert facts["parameters"] > 0
    ids = set(pd.read_csv(run / "training_set.csv", dtype=str)["image_id"])
    table = manifest.read(tested_dir)
    table = table[table["split"] == "train"]
    assert ids == set(table[table["dx"].isin(["nv", "mel"])]["image_id"] if name == "cyclegan" else table["image_id"])


@pytest.mark.parametrize("name", ["ddpm", "vae", "dcgan", "stylegan2"])
def test_the_weights_of_a_validation_are_kept_as_the_best(name, tested_dir, tmp_path):
    folder = tmp_path / "run"
    train(name, tested_dir, folder, max_train_steps=2, validation_steps=2, learning_rate=1e-5)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measure = "val_kid" if name in GANS else "val_loss"
    assert [line["step"] for line in lines if measure in line] == [2]
    best = runs.find(folder, "best")
    assert best.weights.name == "step-2"
    assert_same(final_weights(best.weights), final_weights(folder))


@every_method
def test_images_depend_on_label_and_seed_alone(name, trained, tested_dir, tmp_path):
    run = trained(name)
    table = draw(run, tmp_path / "all", tested_dir)
    generator = runs.load_generator(
        runs.find(run), torch.device("cpu"), num_inference_steps=2, sources=sources(tested_dir)
    )
    labels, seeds = ["mel", "nv", "mel"], [5, 6, 7]
    together = generator.sample(labels, seeds)
    alone = torch.cat([generator.sample([label], [seed]) for label, seed in zip(labels, seeds, strict=True)])
    assert together.dtype == torch.uint8
    assert (together.int() - alone.int()).abs().max() <= 1
    if name != "cyclegan":
        assert not torch.equal(together[0], together[2])
    assert len(table) == (5 if name != "cyclegan" else len(sources(tested_dir)))


def sources(manifest_dir):
    from dermgen.data.loading import LesionSet

    table = manifest.read_real(manifest_dir)
    rows = table[(table["dx"] == "nv") & (table["split"] == "train")]
    return torch.stack([item["pixels"] for item in LesionSet(rows, ["nv"], 32)])


@every_method
def test_a_generated_set_records_how_it_was_made(name, trained, tested_dir, tmp_path):
    run = trained(name)
    table = draw(run, tmp_path / "drawn", tested_dir)
    assert set(table["synthetic"]) == {"true"}
    assert set(table["model"]) == {str(run)}
    assert set(table["model_sha256"]) == {runs.find(run).sha256()}
    if name == "cyclegan":
        real = manifest.read(tested_dir)
        nevi = real[(real["dx"] == "nv") & (real["split"] == "train")]
        assert list(table["source_image_id"]) == list(nevi["image_id"])
        assert set(table["dx"]) == {"mel"}
    else:
        assert list(table["dx"]) == ["mel", "mel", "nv", "nv", "nv"]
        assert "melanoma" in table["caption"][0]
    kept = (tmp_path / "drawn" / table["file_name"][0]).stat().st_mtime_ns
    draw(run, tmp_path / "drawn", tested_dir)  # the same command again makes nothing anew
    assert (tmp_path / "drawn" / table["file_name"][0]).stat().st_mtime_ns == kept


@pytest.mark.slow
@pytest.mark.parametrize("name", GANS)
def test_a_filter_by_discriminator_keeps_the_images_with_the_highest_scores(
    name, trained, tested_dir, synthetic_dir, tmp_path
):
    run = trained(name)
    if name == "cyclegan":
        synthetic_dir = only(tmp_path / "synthetic", synthetic_dir, ["nv", "mel"])
    result = filter_images(
        FilterConfig(
            real=str(tested_dir), synthetic=str(synthetic_dir), output_dir=str(tmp_path / "kept"),
            scorer="discriminator", run=str(run), extractor="pixels", keep=0.5,
        )
    )  # fmt: skip
    table = manifest.read(tmp_path / "kept")
    scores = pd.to_numeric(table["quality_score"])
    assert scores.nunique() > len(table) / 2
    for _, part in table.groupby("dx"):
        kept = part["kept"] == "true"
        if kept.any() and (~kept).any():
            assert scores[part.index[kept]].min() >= scores[part.index[~kept]].max()
    assert result.scorer == f"discriminator {run}"


@pytest.mark.parametrize("name", GANS)
def test_a_discriminators_score_of_an_image_does_not_depend_on_its_neighbours(name, trained):
    run, critic = runs.load_critic(str(trained(name)), torch.device("cpu"))
    images = torch.randint(0, 256, (4, 3, run.resolution, run.resolution), dtype=torch.uint8)
    labels = ["mel", "nv", "mel", "nv"]
    together = critic.score(images, labels)
    alone = torch.cat([critic.score(images[i : i + 1], labels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, critic.score(images, labels[::-1]))


def test_a_discriminator_that_has_seen_the_held_out_images_is_refused(tested_dir, synthetic_dir, tmp_path, trained):
    run = trained("dcgan")
    table = pd.read_csv(run / "training_set.csv", dtype=str)
    real = manifest.read(tested_dir)
    seen = real[real["split"] == "test"]["image_id"].iloc[0]
    copy = tmp_path / "run"
    import shutil

    shutil.copytree(run, copy)
    pd.concat([table, table.head(1).assign(image_id=seen)]).to_csv(copy / "training_set.csv", index=False)
    with pytest.raises(InputError, match="was trained on 1 of the"):
        filter_images(
            FilterConfig(
                real=str(tested_dir), synthetic=str(synthetic_dir), output_dir=str(tmp_path / "kept"),
                scorer="discriminator", run=str(copy), extractor="pixels",
            )
        )  # fmt: skip


@pytest.mark.slow
def test_an_audit_measures_the_distance_of_a_translation_from_its_source(trained, tested_dir, tmp_path):
    fresh()
    drawn = tmp_path / "drawn"
    generate(
        GenerateConfig(model=str(trained("cyclegan")), output_dir=str(drawn), init_images=str(tested_dir), num_images=4)
    )
    fresh()
    result = audit(
        AuditConfig(
            real=str(tested_dir), synthetic=str(drawn), output_dir=str(tmp_path / "audit"), max_copy_rate=0.99,
            false_alarms=0.05,
        )
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "audit" / "audit.csv")
    assert result.drawn_over_real == 4
    assert table["source_distance"].notna().all()
    assert result.median_source_distance == pytest.approx(table["source_distance"].median(), abs=1e-4)


SETTINGS = {
    "ddpm": {"learning_rate": 4e-3, "max_train_steps": 120, "train_batch_size": 16, "ema_decay": 0.9,
             "prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
    "vae": {"max_train_steps": 300, "learning_rate": 3e-3, "train_batch_size": 16, "kl_weight": 0.5},
    "dcgan": {"max_train_steps": 150, "learning_rate": 1e-3, "train_batch_size": 16, "discriminator_norm": "spectral"},
    "stylegan2": {"max_train_steps": 200, "train_batch_size": 8, "ada_target": None, "ema_decay": 0.9,
                  "r1_interval": 16, "path_length_interval": 4},
    "cyclegan": {"max_train_steps": 120, "class_a": "blue", "class_b": "red", "identity_weight": 0.0,
                 "cycle_weight": 1.0, "learning_rate": 1e-3},
}  # fmt: skip


@pytest.mark.slow
@every_method
def test_a_trained_model_generates_images_in_the_colour_of_the_class(name, tmp_path):
    data = colours(tmp_path / "data", 32 if name == "cyclegan" else 16)
    train(name, data, tmp_path / "run", **SETTINGS[name])
    fresh()
    request = {"init_images": str(data)} if name == "cyclegan" else {"classes": "red:40,blue:40"}
    if name == "ddpm":
        request["num_inference_steps"] = 20
    generate(GenerateConfig(model=str(tmp_path / "run"), output_dir=str(tmp_path / "drawn"), batch_size=40, **request))
    table = manifest.read(tmp_path / "drawn")
    from PIL import Image

    means = np.stack([np.asarray(Image.open(tmp_path / "drawn" / f)).mean((0, 1)) for f in table["file_name"]])
    redder = means[:, 0] > means[:, 2]
    assert (redder == (table["dx"] == "red")).mean() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "stylegan2", "cyclegan"])
def test_two_processes_train_as_one_does(name, manifest_dir, tmp_path):
    """As one with a batch as large: gradients, path lengths, styles' means and the image pool are of all images."""
    script = ROOT / "train_scripts" / f"{name}.py"
    losses = {}
    share = 2 if name == "cyclegan" else 4  # StyleGAN2's groups of 4 are the same ones then
    for folder, processes, batch in (("one", 1, 2 * share), ("two", 2, share)):
        settings = vars(config(name, manifest_dir, tmp_path / folder, train_batch_size=batch, max_train_steps=3))
        default = vars(
            config(name, manifest_dir, tmp_path / folder).__class__(
                data_dir="x", **({"class_a": "nv", "class_b": "mel"} if name == "cyclegan" else {})
            )
        )
        flags = []
        for key, value in (settings | {"ema_decay": 0.5, "logging_steps": 1, "random_flip": True}).items():
            if (value != default[key] and value is not None) or key in ("class_a", "class_b"):
                flags += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        result = subprocess.run([*start, script, *flags], cwd=ROOT, env=env, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-2000:]
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        losses[folder] = [json.loads(line) for line in lines]
    for one, two in zip(losses["one"], losses["two"], strict=True):
        assert one == pytest.approx(two, rel=2e-3, abs=1e-4)
    assert_same(final_weights(tmp_path / "one"), final_weights(tmp_path / "two"), tolerance=2e-3)


@every_method
def test_bf16_trains_to_finite_weights(name, manifest_dir, tmp_path):
    train(name, manifest_dir, tmp_path / "run", max_train_steps=2, mixed_precision="bf16")
    for network in final_weights(tmp_path / "run").values():
        for value in network.values():
            assert value.dtype == torch.float32 or not value.is_floating_point()
            assert torch.isfinite(value.float()).all()


@every_method
def test_nan_stops_the_run_and_names_the_step(name, manifest_dir, tmp_path):
    with pytest.raises(InputError, match="loss became NaN or infinite in step"):
        train(name, manifest_dir, tmp_path / "run", max_train_steps=30, learning_rate=1e30)


@every_method
def test_a_run_without_final_weights_cannot_generate(name, trained, tested_dir, tmp_path):
    import shutil

    run = shutil.copytree(trained(name), tmp_path / "run")
    for sub in FROM_SCRATCH[name].networks:
        shutil.rmtree(run / sub)
    with pytest.raises(InputError, match="has no final weights yet"):
        draw(run, tmp_path / "drawn", tested_dir)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ddpm", {"resolution": 20, "channels": [32, 32, 32, 32]}, "resolution must be a multiple of 8"),
        ("ddpm", {"channels": [48, 32]}, "channels must be multiples of 32"),
        ("vae", {"resolution": 20, "channels": [8, 8, 8]}, "resolution must be a multiple of 8"),
        ("dcgan", {"resolution": 24}, "resolution must be at least 8 and a power of 2, got 24"),
        ("stylegan2", {"resolution": 48}, "resolution must be at least 8 and a power of 2, got 48"),
        ("stylegan2", {"loss": "wgan_gp"}, "ada_target uses the sign of logits"),
        ("cyclegan", {"resolution": 30}, "resolution must be at least 32 and a positive multiple of 4, got 30"),
        ("cyclegan", {"class_b": None}, "give either --class_a and --class_b"),
        ("cyclegan", {"class_b": "nv"}, "there is nothing to translate"),
        ("dcgan", {"gradient_accumulation_steps": 2}, "gradient_accumulation_steps must be 1"),
        ("stylegan2", {"torch_compile": True}, "cannot differentiate a compiled network twice"),
        ("dcgan", {"train_batch_size": 500}, "fewer than a batch of 500"),
        ("dcgan", {"only_classes": ["wart"]}, "unknown class 'wart'"),
        ("dcgan", {"only_classes": ["mel"]}, "class_conditional needs at least 2 classes"),
        ("cyclegan", {"train_batch_size": 20}, "training images of nv, fewer than a batch of 20"),
        ("vae", {"random_crop": 0.0}, "random_crop must be above 0"),
        ("vae", {"use_8bit_adam": True}, "models trained from scratch take Adam"),
        ("dcgan", {"monitor": "/nowhere"}, "/nowhere"),
        (
            "ddpm",
            {"validation_inference_steps": 200},
            "validation_inference_steps is 200, more than num_train_timesteps",
        ),
        ("ddpm", {"class_conditional": False, "validation_guidance_scale": 2.0}, "it needs --class_conditional"),
        ("ddpm", {"attention_resolutions": [7]}, "attention_resolutions must be among the levels' heights"),
        ("ddpm", {"channels": []}, "channels must be multiples of 32"),
        ("ddpm", {"snr_gamma": -1.0}, "snr_gamma must be above 0"),
        ("stylegan2", {"ada_target": 7.0}, r"ada_target must be in \(-1, 1\)"),
        ("stylegan2", {"r1_gamma": -5.0}, "r1_gamma must be at least 0"),
        (
            "stylegan2",
            {"loss": "wgan_gp", "ada_target": None, "r1_gamma": 1.0},
            "r1_gamma belongs to the logistic loss",
        ),
        ("stylegan2", {"loss": "wgan_gp", "ada_target": None}, "r1_interval has no effect with --loss wgan_gp"),
        ("stylegan2", {"gradient_penalty_weight": 5.0}, "gradient_penalty_weight has no effect with --loss logistic"),
        ("dcgan", {"discriminator_learning_rate": -1.0}, "discriminator_learning_rate must be at least 0"),
    ],
)
def test_wrong_settings_are_refused_with_the_reason(name, changes, message, manifest_dir, tmp_path):
    with pytest.raises(InputError, match=message):
        train(name, manifest_dir, tmp_path / "run", max_train_steps=1, **changes)


def test_a_manifest_with_synthetic_images_cannot_be_trained_on(synthetic_dir, tmp_path):
    with pytest.raises(InputError, match="must hold real images only"):
        read_lesions(config("vae", synthetic_dir, tmp_path))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vae", {"classes": "wart:3"}, "cannot generate 'wart': it knows"),
        ("vae", {"classes": None}, "generates the classes .*: give --classes"),
        ("vae", {"classes": None, "prompt": "a mole"}, "reads no prompts"),
        ("vae", {"guidance_scale": 3.0}, "--guidance_scale has no meaning for a run of vae"),
        ("vae", {"negative_prompt": "hair"}, "--negative_prompt has no meaning"),
        ("dcgan", {"direction": "b_to_a"}, "--direction has no meaning for a run of dcgan"),
        ("dcgan", {"num_images": 5}, "leave --num_images out"),
        ("ddpm", {"num_inference_steps": 101}, "num_inference_steps is 101, but the model was trained with 100"),
        ("dcgan", {"truncation": 0.7}, "--truncation has no meaning for a run of dcgan"),
        ("vae", {"resolution": 64}, "generates 16 px only"),
        ("cyclegan", {"init_images": None}, "give --init_images"),
        ("cyclegan", {"classes": "mel:4"}, "choose by --init_images"),
    ],
)
def test_a_request_that_a_run_cannot_fulfil_is_refused_with_the_reason(
    name, changes, message, trained, tested_dir, tmp_path
):
    with pytest.raises(InputError, match=message):
        draw(trained(name), tmp_path / "drawn", tested_dir, **changes)


def test_a_class_cannot_be_requested_from_a_run_without_classes(manifest_dir, tmp_path):
    train("vae", manifest_dir, tmp_path / "run", max_train_steps=1, class_conditional=False)
    with pytest.raises(InputError, match=r"cannot generate 'mel': it was trained on .* together"):
        draw(tmp_path / "run", tmp_path / "drawn", manifest_dir)
    table = draw(tmp_path / "run", tmp_path / "any", manifest_dir, classes=None, num_images=3)
    assert list(table["dx"]) == ["", "", ""]


def test_a_run_of_one_class_generates_that_class(manifest_dir, tmp_path):
    train("vae", manifest_dir, tmp_path / "run", max_train_steps=1, class_conditional=False, only_classes=["mel"])
    assert list(draw(tmp_path / "run", tmp_path / "a", manifest_dir, classes="mel:2")["dx"]) == ["mel", "mel"]
    assert list(draw(tmp_path / "run", tmp_path / "b", manifest_dir, classes=None, num_images=1)["dx"]) == ["mel"]


def test_the_folder_of_another_method_is_refused_and_a_vae_has_no_discriminator(trained, tested_dir):
    with pytest.raises(InputError, match="was made with other settings"):
        train("vae", tested_dir, trained("ddpm"), max_train_steps=4)
    with pytest.raises(InputError, match="a run of vae, which has no discriminator"):
        runs.load_critic(str(trained("vae")), torch.device("cpu"))


def test_a_run_is_resumed_only_with_the_images_it_was_started_with(manifest_dir, tmp_path):
    import shutil

    data = shutil.copytree(manifest_dir, tmp_path / "data")
    train("vae", data, tmp_path / "run", max_train_steps=1)
    table = manifest.read(data)
    name = table[table["split"] == "train"]["file_name"].iloc[0]
    from PIL import Image

    Image.new("RGB", (32, 32), "red").save(data / name)
    fresh()
    with pytest.raises(InputError, match="was trained on other images"):
        train("vae", data, tmp_path / "run", max_train_steps=2)


def test_the_samples_of_a_grid_are_always_of_the_same_seeds(manifest_dir, tmp_path):
    """With a learning rate of 0 nothing but the seeds could change a grid."""
    settings = {"max_train_steps": 2, "validation_steps": 1, "learning_rate": 0.0}
    train("vae", manifest_dir, tmp_path / "run", **settings)
    first, second = (tmp_path / "run" / "samples" / f"step-{i}.png" for i in (1, 2))
    assert first.read_bytes() == second.read_bytes()


def test_resuming_from_an_older_checkpoint_discards_later_best_weights(tested_dir, tmp_path):
    """After going back to an older checkpoint, a later best of the course that was left counts no more."""
    folder = tmp_path / "run"
    settings = {"validation_steps": 2, "checkpointing_steps": 2}
    train("vae", tested_dir, folder, max_train_steps=6, **settings)
    assert runs.find(folder, "best").weights.name == "step-6"  # the loss falls from step to step
    fresh()
    train("vae", tested_dir, folder, max_train_steps=4, resume_from_checkpoint="checkpoint-2", **settings)
    assert runs.find(folder, "best").weights.name == "step-4"
    assert not (folder / "checkpoint-6").exists()


def test_a_run_that_was_never_validated_has_no_best_weights(manifest_dir, tmp_path):
    train("vae", manifest_dir, tmp_path / "run", max_train_steps=1)
    with pytest.raises(InputError, match="has no best weights, since it was not validated"):
        runs.find(tmp_path / "run", "best")


def test_validation_images_are_of_every_class_in_its_share(tested_dir, tmp_path):
    everything = read_lesions(config("vae", tested_dir, tmp_path)).val
    number = len(everything) // 2
    few = read_lesions(config("vae", tested_dir, tmp_path, validation_images=number)).val
    again = read_lesions(config("vae", tested_dir, tmp_path, validation_images=number)).val
    assert list(few["image_id"]) == list(again["image_id"])
    assert len(few) == number
    for dx, share in everything["dx"].value_counts(normalize=True).items():
        assert abs((few["dx"] == dx).sum() - number * share) <= 1


def test_few_images_of_a_class_are_of_as_many_lesions_as_there_are(tested_dir, tmp_path):
    whole = read_lesions(config("vae", tested_dir, tmp_path)).train
    few = read_lesions(config("vae", tested_dir, tmp_path, max_images_per_class=3)).train
    for dx, part in few.groupby("dx"):
        assert part["lesion_id"].nunique() == min(3, whole[whole["dx"] == dx]["lesion_id"].nunique())


def test_a_filter_by_discriminator_refuses_classes_that_it_does_not_know(tested_dir, synthetic_dir, trained, tmp_path):
    with pytest.raises(InputError, match="does not know 'akiec', 'bcc', .*; it knows nv, mel"):
        filter_images(
            FilterConfig(
                real=str(tested_dir), synthetic=str(synthetic_dir), output_dir=str(tmp_path / "kept"),
                scorer="discriminator", run=str(trained("cyclegan")), extractor="pixels",
            )
        )  # fmt: skip


def only(folder, source, classes):
    """A copy of a manifest with some classes only."""
    import shutil

    shutil.copytree(source, folder)
    table = manifest.read(folder)
    manifest.write(table[table["dx"].isin(classes)], folder)
    return folder


def test_a_gan_without_classes_filters_the_images_that_it_generated(tested_dir, tmp_path):
    train("dcgan", tested_dir, tmp_path / "run", max_train_steps=1, class_conditional=False)
    draw(tmp_path / "run", tmp_path / "drawn", tested_dir, classes=None, num_images=20)
    fresh()
    result = filter_images(
        FilterConfig(
            real=str(tested_dir), synthetic=str(tmp_path / "drawn"), output_dir=str(tmp_path / "kept"),
            scorer="discriminator", run=str(tmp_path / "run"), extractor="pixels", keep=0.5,
        )
    )  # fmt: skip
    assert (result.n, result.kept) == (20, 10)
    assert "recall" in result.cost["kept"]
    assert (tmp_path / "kept" / "sheets" / "kept_and_dropped.png").exists()


def test_intensity_scaling_changes_the_first_loss(manifest_dir, tmp_path):
    def first_loss(scaling):
        folder = tmp_path / str(scaling)
        train("vae", manifest_dir, folder, max_train_steps=1, intensity_scaling=scaling)
        return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["mse"]

    hardly, also_hardly, much = map(first_loss, (1e-9, 2e-9, 0.5))
    assert hardly == pytest.approx(also_hardly, rel=1e-5)
    assert hardly != pytest.approx(much, rel=1e-3)
