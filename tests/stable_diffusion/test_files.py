"""What people have in place of a Stable Diffusion is named in one sentence, from headers and JSON alone."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from dermgen.config import InputError
from dermgen.stable_diffusion.files import base_sha256, check_model, native_size, part_shapes
from dermgen.stable_diffusion.pipeline import load_adapter, load_pipeline
from dermgen.stable_diffusion.weight_files import adapted_layers, check_adapter, is_zero

UNET = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(base_dir, tmp_path):
    """A copy of the small pipeline, to be damaged."""
    return shutil.copytree(base_dir, tmp_path / "sd")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def save(path, **tensors):
    save_file({name: value.clone() for name, value in tensors.items()}, path)
    return path


def refusal(check, *arguments):
    with pytest.raises(InputError) as caught:
        check(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_complete_pipeline_passes_and_its_folder_is_returned(model):
    (model / "checkpoint-2").mkdir()
    (model / "checkpoint-2" / "state.json").write_text("[1, 2")  # a run's own, and no part of the model
    assert check_model(str(model)) == model


def test_models_of_another_kind_are_named(model, tmp_path):
    change(model / "unet" / "config.json", in_channels=9)
    assert "is an inpainting model: its UNet takes 9 channels, not 4" in refusal(check_model, str(model))
    change(model / "unet" / "config.json", in_channels=4, addition_embed_type="text_time")
    assert "is that of SDXL or a later model: dermgen takes" in refusal(check_model, str(model))
    change(model / "unet" / "config.json", addition_embed_type=None, cross_attention_dim=768)
    assert "takes texts of 768 numbers and its text encoder gives 32" in refusal(check_model, str(model))
    change(model / "model_index.json", _class_name="StableDiffusionXLPipeline")
    assert "is a StableDiffusionXLPipeline, not a Stable Diffusion" in refusal(check_model, str(model))


def test_damaged_files_are_refused_by_what_they_are(model):
    path = model / "unet" / UNET
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is cut off or damaged: copy or download it again" in refusal(check_model, str(model))
    path.write_bytes(whole[:300])
    assert "is cut off or damaged" in refusal(check_model, str(model))
    for content, message in (
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS in place of the weights"),
        (b"<!DOCTYPE html><html>", "a web page in place of the weights"),
        (b"PK\x03\x04 archive/data.pkl", "a checkpoint in pickle form, which can run code"),
    ):
        path.write_bytes(content)
        assert message in refusal(check_model, str(model))
    shutil.copyfile(model / "vae" / UNET, path)
    assert "are those of another model: it has no conv_in.weight" in refusal(check_model, str(model))
    path.write_bytes(whole)
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text()[:40])
    assert "scheduler_config.json is no whole JSON file" in refusal(check_model, str(model))
    config.write_text("[]")
    assert "is not what its name says" in refusal(check_model, str(model))
    config.write_text("{}")
    assert "without beta_schedule: which noise it was trained with is lost" in refusal(check_model, str(model))
    config.unlink()
    assert "has no scheduler/scheduler_config.json: the pipeline is not whole" in refusal(check_model, str(model))
    config.write_text('{"beta_schedule": "linear"}')
    shutil.rmtree(model / "tokenizer")
    assert "sd has no tokenizer: the pipeline is not whole" in refusal(check_model, str(model))
    shutil.rmtree(model / "vae")
    assert "has no vae/config.json: the pipeline is not whole" in refusal(check_model, str(model))


def test_weights_of_a_variant_alone_are_loaded_when_it_is_named(model):
    for part in ("unet", "vae", "text_encoder"):
        for path in (model / part).glob("*.safetensors"):
            path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    assert "has only weights of the variant fp16: say --variant fp16" in refusal(check_model, str(model))
    assert load_pipeline(str(model), variant="fp16").unet.config.in_channels == 4


def test_a_size_written_as_a_list_is_read_and_an_oblong_refused():
    assert native_size([64, 64], "m") == native_size(64, "m") == 64
    assert "made for latents of [64, 96]; dermgen draws squares" in refusal(native_size, [64, 96], "m")


def test_single_files_are_refused_by_what_they_are(tmp_path):
    x = torch.zeros(4, 4)
    checkpoint = save(tmp_path / "v1-5.safetensors", **{"model.diffusion_model.input_blocks.0.0.weight": x})
    message = refusal(check_model, str(checkpoint))
    assert "is a single-file checkpoint of a Stable Diffusion; convert it with diffusers" in message
    xl = save(tmp_path / "xl.safetensors", **{"conditioner.embedders.0.x": x, "model.diffusion_model.y": x})
    assert "a single-file checkpoint of SDXL" in refusal(check_model, str(xl))
    (tmp_path / "model.ckpt").write_bytes(b"x")
    assert "a single file in pickle form" in refusal(check_model, str(tmp_path / "model.ckpt"))
    # Where an adapter is expected as well.
    assert "a single-file checkpoint of a Stable Diffusion" in refusal(adapted_layers, checkpoint)
    word = save(tmp_path / "word.safetensors", emb_params=torch.zeros(1, 8))
    assert "a textual inversion (the embedding of a word)" in refusal(adapted_layers, word)
    other = save(tmp_path / "other.safetensors", a=torch.zeros(2, 2, 2))
    assert "a file of 1 tensor (such as a) that is not an adapter or model" in refusal(adapted_layers, other)
    assert "it holds other.safetensors" in refusal(check_model, str(tmp_path))


@pytest.fixture(scope="module")
def adapter(base_dir, tmp_path_factory):
    """An adapter of the UNet and the text encoder, in diffusers' spelling; B is not zero."""
    folder = tmp_path_factory.mktemp("adapter")
    pipeline = load_pipeline(str(base_dir))
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0"], init_lora_weights=False))
    from peft import get_peft_model_state_dict

    StableDiffusionPipeline.save_lora_weights(folder, get_peft_model_state_dict(pipeline.unet))
    return folder / "pytorch_lora_weights.safetensors"


def shapes(base_dir):
    return [part_shapes(base_dir, part) for part in ("unet", "text_encoder")]


def renamed(adapter, path, name, change=lambda value: value):
    return save(path, **{name(key): change(value) for key, value in load_file(adapter).items()})


def test_adapters_that_fit_pass_in_the_spellings_of_diffusers_and_kohya(base_dir, adapter, tmp_path):
    number = check_adapter(adapter, "sd", *shapes(base_dir))
    assert number == len(load_file(adapter)) // 2

    def kohya(key):
        layer, _, kind = key.removeprefix("unet.").rpartition(".lora")
        ends = {"_A.weight": "lora_down.weight", "_B.weight": "lora_up.weight"}
        ends |= {".down.weight": "lora_down.weight", ".up.weight": "lora_up.weight"}
        return f"lora_unet_{layer.replace('.', '_')}.{ends[kind]}"

    other = renamed(adapter, tmp_path / "kohya.safetensors", kohya)
    assert check_adapter(other, "sd", *shapes(base_dir)) == number
    load_adapter(load_pipeline(str(base_dir)), other, 1.0)


def test_adapters_of_other_programs_and_models_are_refused_by_what_they_are(base_dir, adapter, tmp_path):
    path = tmp_path / "a.safetensors"
    x = torch.ones(2, 16)
    for key, description in (
        ("lora_unet_down_blocks_0.hada_w1_a", "a LoHa adapter (LyCORIS)"),
        ("lora_unet_down_blocks_0.lokr_w1", "a LoKr adapter (LyCORIS)"),
    ):
        assert description in refusal(adapted_layers, save(path, **{key: x}))
    flux = {f"transformer.single_transformer_blocks.0.attn.to_q.lora_{k}.weight": x for k in "AB"}
    message = refusal(check_adapter, save(path, **flux), "sd", *shapes(base_dir))
    assert "is a LoRA adapter of FLUX for layers that sd does not have" in message
    deeper = renamed(adapter, path, lambda key: key.replace("down_blocks.1", "down_blocks.3"))
    assert "for layers that sd does not have (such as unet.down_blocks.3" in refusal(
        check_adapter, deeper, "sd", *shapes(base_dir)
    )
    wider = renamed(
        adapter, path, lambda key: key, lambda value: torch.ones([n if n == 2 else 2 * n for n in value.shape])
    )
    assert "for layers of another width than those of sd" in refusal(check_adapter, wider, "sd", *shapes(base_dir))


def test_adapters_that_change_nothing_give_a_warning(base_dir, adapter, tmp_path, capsys):
    assert not is_zero(adapter)
    blank = renamed(
        adapter, tmp_path / "z.safetensors", lambda k: k, lambda v: v if v.shape[0] == 2 else torch.zeros_like(v)
    )
    assert is_zero(blank)
    load_adapter(load_pipeline(str(base_dir)), blank, 1.0)
    assert "are all zero: the images are those of the base model" in capsys.readouterr().out


def test_a_base_model_is_recognised_by_its_weights_and_not_by_its_folder(base_dir, model):
    known = base_sha256(base_dir)
    assert base_sha256(model) == known
    path = model / "vae" / UNET
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    assert base_sha256(model) != known
