"""Cached latents and embeddings are what would be computed, and never stale."""

import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from dermgen.config import InputError
from dermgen.data.examples import Example, PromptedSet, manifest_examples
from dermgen.data.loading import collate
from dermgen.stable_diffusion.inputs import (
    LatentSource,
    PromptSource,
    cache_latents,
    check_prompts,
    cut_texts,
    cut_warning,
    latent_moments,
)
from dermgen.stable_diffusion.pipeline import load_pipeline
from dermgen.stable_diffusion.small import build_tokenizer
from dermgen.training.draws import Draws


@pytest.fixture
def pipeline(base_dir):
    return load_pipeline(str(base_dir))


def pixel_set(folder, resolution=32, masks=False, interpolation="lanczos"):
    examples = manifest_examples(folder, "train")[:6]
    return PromptedSet(examples, list(range(6)), resolution, True, interpolation, masks)


def cached(pixels, pipeline, folder, flip=False):
    return cache_latents(pixels, pipeline.vae, flip, folder, Accelerator(), batch_size=4)


def files(folder):
    return sorted(p.name for p in folder.rglob("*.npy"))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_cached_latents_are_those_computed_on_the_fly(manifest_dir, pipeline, tmp_path, flip, masks):
    pixels = pixel_set(manifest_dir, masks=masks)
    stored = cached(pixels, pipeline, tmp_path, flip)
    source = LatentSource(pipeline.vae, 32, flip)
    seeds = range(6)
    direct, direct_mask = source(collate([pixels[i] for i in range(6)]), Draws(seeds))
    kept, kept_mask = source(collate([stored[i] for i in range(6)]), Draws(seeds))
    torch.testing.assert_close(direct, kept, rtol=1e-4, atol=1e-4)
    if masks:
        torch.testing.assert_close(direct_mask, kept_mask)
    else:
        assert kept_mask is None


def test_a_flip_stays_random_with_cached_latents(manifest_dir, pipeline, tmp_path):
    stored = cached(pixel_set(manifest_dir), pipeline, tmp_path, flip=True)
    source = LatentSource(pipeline.vae, 32, True)
    batch = collate([stored[0]] * 64)
    batch["moments"][:, :, 4:] = 0  # no spread: what is left is which of the two rows was taken
    latents, _ = source(batch, Draws(range(64)))
    rows = batch["moments"][0, :, :4] * pipeline.vae.config.scaling_factor
    taken = [int(torch.allclose(x, rows[1])) for x in latents]
    assert all(torch.allclose(x, rows[t]) for x, t in zip(latents, taken, strict=True))
    assert 16 < sum(taken) < 48


def test_the_cache_is_reused_for_the_same_content_and_recomputed_after_any_change(manifest_dir, pipeline, tmp_path):
    cached(pixel_set(manifest_dir), pipeline, tmp_path)
    first = files(tmp_path)
    cached(pixel_set(manifest_dir), pipeline, tmp_path)
    assert files(tmp_path) == first
    copy = tmp_path / "copy"
    shutil.copytree(manifest_dir, copy)
    cached(pixel_set(copy), pipeline, tmp_path)
    assert files(tmp_path) == first  # content counts, not the path
    path = pixel_set(copy).examples[0].path
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    changes = [
        lambda: cached(pixel_set(copy), pipeline, tmp_path),
        lambda: cached(pixel_set(manifest_dir, resolution=16), pipeline, tmp_path),
        lambda: cached(pixel_set(manifest_dir, interpolation="bilinear"), pipeline, tmp_path),
        lambda: cached(pixel_set(manifest_dir, masks=True), pipeline, tmp_path),
        lambda: cached(pixel_set(manifest_dir), pipeline, tmp_path, flip=True),
        lambda: (pipeline.vae.encoder.conv_in.bias.data.add_(0.1), cached(pixel_set(manifest_dir), pipeline, tmp_path)),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        assert len(files(tmp_path)) == number


def test_a_damaged_cache_file_is_named(manifest_dir, pipeline, tmp_path):
    cached(pixel_set(manifest_dir), pipeline, tmp_path)
    path = next(tmp_path.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=f"cache file {path} cannot be read .*delete it"):
        cached(pixel_set(manifest_dir), pipeline, tmp_path)


def test_cached_latents_are_memory_mapped(manifest_dir, pipeline, tmp_path):
    assert isinstance(cached(pixel_set(manifest_dir), pipeline, tmp_path).moments, np.memmap)


def test_nan_latents_are_an_error_that_names_the_images(manifest_dir, pipeline, tmp_path):
    pipeline.vae.quant_conv.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="gives NaN for the images PHANTOM_"):
        cached(pixel_set(manifest_dir), pipeline, tmp_path)
    with pytest.raises(InputError, match="gives NaN for the images a"):
        latent_moments(pipeline.vae, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["a"])


def test_cached_embeddings_are_the_text_encoders(pipeline, tmp_path):
    prompts = ["melanoma, back", "nevus", ""]
    source = PromptSource(prompts, pipeline.tokenizer, pipeline.text_encoder)
    ids = torch.tensor([2, 0, 1, 0])
    with torch.no_grad():
        direct = source(ids)
    source.cache(tmp_path, Accelerator())
    torch.testing.assert_close(source(ids), direct, rtol=1e-5, atol=1e-5)
    before = files(tmp_path)
    pipeline.text_encoder.get_input_embeddings().weight.data.add_(0.1)
    PromptSource(prompts, pipeline.tokenizer, pipeline.text_encoder).cache(tmp_path, Accelerator())
    assert len(files(tmp_path)) == len(before) + 1


def test_a_prompt_without_tokens_is_an_error(pipeline):
    check_prompts(["melanoma"], pipeline.tokenizer)
    with pytest.raises(InputError, match="the prompt '  ' has no tokens"):
        check_prompts(["melanoma", "  "], pipeline.tokenizer)


def test_the_warning_of_a_text_that_is_too_long_quotes_the_part_that_is_read():
    tokenizer = build_tokenizer(["a dark lesion on the back"] * 3, 8)
    texts = ["a dark lesion", "a dark lesion on the back", "a dark lesion on the back, dark", "a dark lesion"]
    cut = cut_texts(texts, tokenizer)
    assert cut == {"a dark lesion on the back, dark": "a dark lesion on the back"}
    assert cut_warning(cut, 3) == (
        "warning: 1 of 3 prompts is too long for the model and is cut: 'a dark lesion on the back, dark'… is read only "
        "up to …'a dark lesion on the back'"
    )
    assert cut_warning({"a b": "a", "a c": "a", "d e": "d"}, 9).endswith("; 2 of them become identical")
    assert set(cut_texts(texts, tokenizer, max_length=5).values()) == {"a dark lesion"}


def test_a_set_that_keeps_its_images_reads_each_file_once_as_far_as_they_fit(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (80 * i, 0, 0)).save(path)
    pixels = PromptedSet([Example(str(p), "", p.stem) for p in paths], [5, 6, 7], 8, keep=2 * 3 * 8 * 8)
    before = [pixels[i] for i in range(3)]
    for path in paths:
        path.unlink()
    for i in range(2):
        assert torch.equal(pixels[i]["pixels"], before[i]["pixels"])
        assert pixels[i]["prompt_id"] == 5 + i
    with pytest.raises(InputError, match=r"2\.png"):
        pixels[2]
