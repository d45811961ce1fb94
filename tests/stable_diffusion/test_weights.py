"""Saved weights give, in an untouched diffusers pipeline, what the model in memory gives."""

import os
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from dermgen.config import InputError
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.pipeline import load_pipeline
from dermgen.stable_diffusion.small import build_tokenizer
from dermgen.stable_diffusion.weights import LORA_FILE, FullWeights, LoraWeights, _require_close


def shake(models):
    """Move every trained weight, as training would."""
    rng = torch.Generator().manual_seed(1)
    for model in models:
        for p in model.parameters():
            if p.requires_grad:
                p.data += 0.1 * torch.randn(p.shape, generator=rng)


def draw(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(0)
    return pipeline("melanoma", num_inference_steps=3, generator=rng, output_type="pt", height=32, width=32).images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "rank", "alpha", "dora"),
    [(False, 4, 4, False), (True, 4, 12, False), (False, 2, 3, True), (True, 8, 1, True)],
)
def test_plain_diffusers_loads_an_adapter_with_its_alpha_and_generates_the_same_image(
    base_dir, tmp_path, text, rank, alpha, dora
):
    pipeline = load_pipeline(str(base_dir))
    weights = LoraWeights(text, rank, alpha, use_dora=dora).attach(pipeline)
    base_image = draw(pipeline)
    shake(weights.models)
    weights.save(tmp_path)
    assert weights.verify(tmp_path, BaseModel(str(base_dir))) < 1e-5
    plain = StableDiffusionPipeline.from_pretrained(base_dir, safety_checker=None)
    plain.load_lora_weights(tmp_path)
    torch.testing.assert_close(draw(plain), draw(pipeline), rtol=1e-4, atol=1e-4)
    assert (draw(plain) - base_image).abs().max() > 0.01


def test_adapters_on_convolutions_are_loaded_by_plain_diffusers_too(base_dir, tmp_path):
    pipeline = load_pipeline(str(base_dir))
    weights = LoraWeights(False, 4, 8, target_modules=["to_k", "conv1", "conv2"]).attach(pipeline)
    shake(weights.models)
    weights.save(tmp_path)
    assert weights.verify(tmp_path, BaseModel(str(base_dir))) < 1e-5


def test_an_adapter_that_lost_its_alpha_or_its_text_encoder_fails_the_check(base_dir, tmp_path):
    pipeline = load_pipeline(str(base_dir))
    weights = LoraWeights(True, 4, 16).attach(pipeline)
    shake(weights.models)
    weights.save(tmp_path)
    state = load_file(tmp_path / LORA_FILE)
    save_file(state, tmp_path / LORA_FILE)  # without the metadata
    with pytest.raises(RuntimeError, match="do not give what the model in memory gives"):
        weights.verify(tmp_path, BaseModel(str(base_dir)))
    weights.save(tmp_path)
    only_unet = {k: v for k, v in state.items() if k.startswith("unet.")}
    save_file({k: v * 1.0 for k, v in only_unet.items()}, tmp_path / LORA_FILE)
    with pytest.raises(RuntimeError, match="do not give"):
        weights.verify(tmp_path, BaseModel(str(base_dir)))


def test_a_checkpoint_restores_adapters_bit_for_bit_and_a_foreign_one_is_refused(base_dir, tmp_path):
    first = LoraWeights(True, 4, 8, use_dora=True).attach(load_pipeline(str(base_dir)))
    shake(first.models)
    first.save_checkpoint(tmp_path)
    second = LoraWeights(True, 4, 8, use_dora=True).attach(load_pipeline(str(base_dir)))
    second.load_checkpoint(tmp_path)
    for a, b in zip(first.models, second.models, strict=True):
        trained = {k: v for k, v in a.named_parameters() if v.requires_grad}
        assert trained
        for name, value in b.named_parameters():
            if value.requires_grad:
                assert torch.equal(trained[name], value), name
    state = load_file(tmp_path / LORA_FILE)
    state.pop(next(iter(state)))
    save_file(state, tmp_path / LORA_FILE)
    with pytest.raises(InputError, match="1 trained weight is missing, 0 are unknown"):
        second.load_checkpoint(tmp_path)


def test_trained_weights_are_float32_on_a_half_precision_base(base_dir):
    pipeline = load_pipeline(str(base_dir), dtype=torch.bfloat16)
    weights = LoraWeights(True, 4, 4).attach(pipeline)
    kinds = {p.dtype for m in weights.models for p in m.parameters() if p.requires_grad}
    assert kinds == {torch.float32}
    assert pipeline.unet.conv_in.weight.dtype == torch.bfloat16


def test_targets_that_match_no_layer_are_an_error_that_lists_the_layers(base_dir):
    with pytest.raises(InputError, match=r"no layer of the UNet matches the LoRA targets to_x; it has .*to_k"):
        LoraWeights(False, 4, 4, target_modules=["to_x"]).attach(load_pipeline(str(base_dir)))


@pytest.mark.parametrize("text", [False, True])
def test_all_weights_survive_a_checkpoint_and_the_final_pipeline(base_dir, tmp_path, text):
    pipeline = load_pipeline(str(base_dir))
    weights = FullWeights(text).attach(pipeline)
    shake(weights.models)
    weights.save_checkpoint(tmp_path / "c")
    assert (tmp_path / "c" / "unet" / "config.json").exists()
    assert (tmp_path / "c" / "text_encoder").exists() == text
    weights.save(tmp_path / "p")
    assert weights.verify(tmp_path / "p", BaseModel(str(base_dir))) == 0
    other = FullWeights(text).attach(load_pipeline(str(base_dir)))
    other.load_checkpoint(tmp_path / "c")
    torch.testing.assert_close(draw(other.pipeline), draw(pipeline), rtol=0, atol=0)
    torch.testing.assert_close(draw(load_pipeline(str(tmp_path / "p"))), draw(pipeline), rtol=0, atol=0)


def test_weights_gathered_from_shards_keep_the_scheduler_of_the_training_and_the_given_tokenizer(base_dir, tmp_path):
    build_tokenizer(["a mole"], max_length=16).save_pretrained(tmp_path)
    base = BaseModel(str(base_dir), tokenizer_name=str(tmp_path))
    pipeline = base.load()
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type="epsilon")
    weights = FullWeights(True).attach(pipeline)
    shake(weights.models)
    whole = weights.gathered(base, [model.state_dict() for model in weights.models])
    assert whole.pipeline.scheduler.config.prediction_type == "epsilon"
    assert whole.pipeline.tokenizer.model_max_length == 16
    for ours, theirs in zip(weights.models, whole.models, strict=True):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


@pytest.mark.slow
def test_the_same_adapters_are_saved_as_the_same_bytes_in_every_process(base_dir, tmp_path):
    """The metadata of a safetensors file has a random order, and a set's order depends on the process."""
    code = (
        "import sys, torch; from pathlib import Path; from dermgen.stable_diffusion.pipeline import load_pipeline; "
        "from dermgen.stable_diffusion.weights import LoraWeights; torch.manual_seed(0); "
        "weights = LoraWeights(True, 4, 8).attach(load_pipeline(sys.argv[1])); "
        "[weights.save(Path(sys.argv[2], str(i))) for i in range(4)]"
    )
    saved = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        command = [sys.executable, "-c", code, str(base_dir), str(folder)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        saved |= {(folder / str(i) / LORA_FILE).read_bytes() for i in range(4)}
    assert len(saved) == 1


def test_outputs_that_are_all_zero_are_equal_and_nan_never_is(tmp_path):
    zeros = torch.zeros(2, 3)
    assert _require_close(zeros, zeros.clone(), tmp_path) == 0
    for other in (zeros + 1e-3, zeros * float("nan")):
        for pair in ((zeros, other), (other, zeros)):
            with pytest.raises(RuntimeError, match="do not give what the model in memory gives"):
                _require_close(*pair, tmp_path)
    with pytest.raises(RuntimeError):
        _require_close(zeros * float("nan"), zeros * float("nan"), tmp_path)
