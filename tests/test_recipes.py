"""Every recipe parses with its script's settings, says how to launch it, and every accelerate config loads."""

import tomllib
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from dermgen import recipes, shipped
from dermgen.classify.classifier import ClassifierConfig
from dermgen.classify.study import StudyConfig
from dermgen.config import InputError, parse
from dermgen.settings.methods import METHODS, RECIPES

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "train_scripts" / "configs"
FILES = sorted(p for p in CONFIGS.glob("*.yaml") if not p.stem.startswith("study"))
ACCELERATE = sorted((ROOT / "accelerate_configs").glob("*.yaml"))


def script(path):
    return next(name for start, name in sorted(RECIPES.items(), reverse=True) if path.stem.startswith(start))


def recipe(name):
    path = CONFIGS / f"{name}.yaml"
    return parse(METHODS[script(path)].settings, ["--config", str(path)])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_recipe_parses_and_its_header_launches_it(path):
    config = recipe(path.stem)
    assert config.output_dir.startswith(("runs/", "demo/"))
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    assert f"train_scripts/{script(path)}.py --config train_scripts/configs/{path.name}" in header
    assert "Needs:" in header
    assert "mixed_precision" not in yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda p: p.stem)
def test_an_accelerate_config_loads(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision == ("no" if path.stem == "cpu" else "bf16")
    assert config.use_cpu == (path.stem == "cpu")


def test_all_five_accelerate_configs_exist():
    assert {p.stem for p in ACCELERATE} == {"cpu", "single_gpu", "multi_gpu", "multi_node", "fsdp"}


def test_the_published_settings_of_the_classifiers():
    vit, early, resnet = (
        parse(ClassifierConfig, ["--config", str(CONFIGS / f"classifier_{name}.yaml")])
        for name in ("vit", "vit_early_stopping", "resnet50")
    )
    assert (vit.learning_rate, vit.train_batch_size, vit.adam_weight_decay, vit.lr_scheduler) == (
        2e-5,
        32,
        0.01,
        "linear",
    )
    assert vit.lr_warmup_steps > 0
    assert (early.learning_rate, early.early_stopping_patience is None) == (5e-5, False)
    assert (resnet.optimizer, resnet.learning_rate, resnet.train_batch_size) == ("adam", 1e-3, 64)
    assert (resnet.reduce_on_plateau_patience, resnet.early_stopping_patience) == (5, 15)
    assert resnet.head_width > 0
    assert resnet.freeze_stages > 0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("study*.yaml")), ids=lambda p: p.stem)
def test_a_studys_recipe_parses_and_names_a_classifiers_recipe(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = parse(StudyConfig, ["--config", str(path)])
    parse(ClassifierConfig, ["--config", config.classifier])
    assert f"dermgen study --config train_scripts/configs/{path.name}" in path.read_text()


def test_the_published_settings_of_the_baselines():
    ddpm, vae, dense, dcgan = map(
        recipe, ("ddpm_ham10000_64", "vae_ham10000_64", "vae_dense_ham10000_64", "dcgan_ham10000_64")
    )
    assert (ddpm.resolution, ddpm.learning_rate, ddpm.train_batch_size, ddpm.num_train_epochs) == (64, 2e-4, 128, 120)
    assert (ddpm.prediction_type, ddpm.beta_schedule, ddpm.snr_gamma, ddpm.adam_weight_decay) == (
        "epsilon",
        "linear",
        None,
        0,
    )
    assert (vae.resolution, vae.learning_rate, vae.train_batch_size, vae.num_train_epochs) == (64, 1e-3, 64, 120)
    assert (vae.latent_dim, vae.kl_weight) == (128, 1)
    assert (dense.architecture, dense.hidden_width) == ("dense", 256)
    assert (dcgan.learning_rate, dcgan.adam_beta1, dcgan.train_batch_size, dcgan.resolution) == (2e-4, 0.5, 64, 64)
    melanoma, cyclegan = recipe("stylegan2_melanoma_128"), recipe("cyclegan_nevus_melanoma")
    assert (melanoma.loss, melanoma.spectral_norm, melanoma.n_critic) == ("wgan_gp", True, 3)
    assert (melanoma.learning_rate, melanoma.discriminator_learning_rate) == (5e-5, 8e-5)
    assert (melanoma.train_batch_size, melanoma.ema_decay, melanoma.resolution) == (16, 0.9995, 128)
    assert (melanoma.gradient_penalty_weight, melanoma.latent_dim, melanoma.mapping_layers) == (10, 512, 8)
    assert (cyclegan.cycle_weight, cyclegan.identity_weight, cyclegan.pool_size, cyclegan.train_batch_size) == (
        10,
        0.5,
        50,
        1,
    )


def test_a_recipe_is_found_by_its_path_else_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped_one = CONFIGS / "vae_tiny.yaml"
    assert recipes.find("vae_tiny") == shipped_one
    assert recipes.find("train_scripts/configs/vae_tiny.yaml") == shipped_one
    Path("vae_tiny").write_text("mine")
    Path("train_scripts/configs").mkdir(parents=True)
    Path("train_scripts/configs/vae_tiny.yaml").write_text("mine too")
    assert recipes.find("vae_tiny") == Path("vae_tiny")
    assert recipes.find("train_scripts/configs/vae_tiny.yaml") == Path("train_scripts/configs/vae_tiny.yaml")


@pytest.mark.parametrize("text", ["vae_tini", "vae_tiny.yaml", "other/vae_tiny.yaml"])
def test_a_recipe_that_is_missing_is_refused_with_the_nearest_name(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"no such recipe: {text}; did you mean vae_tiny"):
        recipes.find(text)


@pytest.mark.parametrize(
    ("name", "text", "flag", "method"),
    [
        ("ddpm_x", "seed: 1", None, "ddpm"),
        ("cgan_x", "seed: 1", None, "dcgan"),
        ("dreambooth_lora_x", "seed: 1", None, "dreambooth_lora"),
        ("mine", "method: vae", None, "vae"),
        ("ddpm_x", "method: vae", None, "vae"),
        ("mine", "seed: 1", "vae", "vae"),
        ("ddpm_x", "seed: 1", "vae", "vae"),
        ("study_x", "seed: 1", None, "study"),
    ],
)
def test_the_method_is_that_of_the_flag_else_of_the_recipe_else_of_the_file_name(name, text, flag, method, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    assert recipes.method_of(path, flag) == method


@pytest.mark.parametrize(
    ("text", "flag", "message"),
    [
        ("seed: 1", None, "does not begin with a method's name: add --method, or a line `method: NAME`"),
        ("method: gpt", None, "unknown method 'gpt': give one of dreambooth, "),
        ("method: vae", "ddpm", "is a recipe for vae, not for ddpm"),
    ],
)
def test_a_recipe_of_no_or_of_two_methods_is_refused(text, flag, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        recipes.method_of(tmp_path / "mine.yaml", flag)


def test_files_that_ship_are_looked_for_in_a_clone_then_where_a_wheel_installs_them(tmp_path, monkeypatch):
    assert shipped.folder("train_scripts/configs") == CONFIGS
    monkeypatch.setattr(shipped, "CLONE", tmp_path / "site-packages")
    monkeypatch.setattr("sysconfig.get_path", lambda name, scheme="here": str(tmp_path / scheme))
    with pytest.raises(InputError, match="dermgen's own files are missing.*install dermgen again"):
        shipped.folder("train_scripts/configs")
    wheel = tmp_path / "here" / "share" / "dermgen" / "train_scripts" / "configs"
    wheel.mkdir(parents=True)
    assert shipped.folder("train_scripts/configs") == wheel


@pytest.mark.parametrize("name", ["model_cards", "train_scripts/configs", "accelerate_configs"])
def test_a_wheel_holds_what_ships_with_the_code(name):
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    (pattern,) = data[f"share/dermgen/{name}"]
    assert {path for path in (ROOT / name).iterdir() if path.is_file()} == set(ROOT.glob(pattern))


@pytest.mark.parametrize(
    ("header", "needs", "memory"),
    [
        (
            "# Needs: a GPU with 12 GB, and\n# the Hub.\n# Memory: 6 GiB on a GPU.\n#   launch\n",
            "a GPU with 12 GB, and the Hub.",
            12,
        ),
        ("# Needs: a GPU.\n", "a GPU.", 0),
        (
            "# Needs: a manifest; a CPU does, a GPU makes it minutes.\n",
            "a manifest; a CPU does, a GPU makes it minutes.",
            None,
        ),
        ("# Needs: a manifest.\n# Memory: little of a GPU.\n", "a manifest.", None),
        ("# Mine.\n", "", None),
    ],
)
def test_what_a_recipe_needs_is_read_from_its_comment(header, needs, memory, tmp_path):
    path = tmp_path / "ddpm_x.yaml"
    path.write_text(f"# About.\n{header}data_dir: x\n")
    recipe = recipes.read(str(path))
    assert (recipe.needs, recipe.gpu_memory) == (needs, memory)
