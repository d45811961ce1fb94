"""The DDPM's forward process, losses and sampler against their definitions; plain diffusers samples what it saves."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from small import config, train

from dermgen.config import InputError
from dermgen.methods.ddpm import DdpmGenerator, build, denoising_losses, load_generator
from dermgen.sampling import GeneratorOptions
from dermgen.training.draws import Draws


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_the_forward_process_has_the_mean_and_variance_of_its_steps(beta_schedule, tmp_path):
    """Adding noise in one go is as adding a little 60 times: x_t = sqrt(1 - β) x_(t-1) + sqrt(β) ε."""
    _, schedule = build(config("ddpm", tmp_path, tmp_path, beta_schedule=beta_schedule), 2)
    rng = torch.Generator().manual_seed(0)
    t, start = 59, 0.8
    x = torch.full((20000,), start)
    for beta in schedule.betas[: t + 1]:
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(x.shape, generator=rng)
    noise = torch.randn(20000, generator=rng)
    at_once = schedule.add_noise(torch.full((20000,), start), noise, torch.full((20000,), t))
    assert x.mean().item() == pytest.approx(at_once.mean().item(), abs=0.03)
    assert x.var().item() == pytest.approx(at_once.var().item(), rel=0.05)
    alpha_bar = torch.cumprod(1 - schedule.betas, 0)[t]
    assert at_once.mean().item() == pytest.approx((alpha_bar.sqrt() * start).item(), abs=0.03)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_the_forward_process_ends_in_noise_however_many_steps_it_has(beta_schedule, tmp_path):
    for steps in (21, 50, 100, 250, 500, 1000, 4000):
        _, schedule = build(
            config("ddpm", tmp_path, tmp_path, beta_schedule=beta_schedule, num_train_timesteps=steps), 2
        )
        assert 0 < schedule.betas.min() < schedule.betas.max() < 1
        assert schedule.alphas_cumprod[-1] < 1e-3, steps
    with pytest.raises(InputError, match="num_train_timesteps must be at least 21"):
        config("ddpm", tmp_path, tmp_path, beta_schedule=beta_schedule, num_train_timesteps=20)


def test_a_run_that_an_older_version_started_with_other_betas_generates_but_is_not_resumed(manifest_dir, tmp_path):
    """Its linear schedule had the betas of 1,000 steps whatever their number."""
    run = tmp_path / "run"
    train("ddpm", manifest_dir, run, max_train_steps=1)
    old = DDPMScheduler(num_train_timesteps=100)
    old.save_pretrained(run / "scheduler")
    facts = json.loads((run / "provenance.json").read_text())
    del facts["beta_end"]
    (run / "provenance.json").write_text(json.dumps(facts))
    generator = load_generator(run, ["a"] * 7, torch.device("cpu"), GeneratorOptions(num_inference_steps=10))
    assert torch.equal(generator.scheduler.betas, old.betas)
    for steps in (1, 2):  # the same command again, and a longer one
        with pytest.raises(InputError, match="started by an older version, whose linear schedule"):
            train("ddpm", manifest_dir, run, max_train_steps=steps)
    assert torch.equal(DDPMScheduler.from_pretrained(run / "scheduler").betas, old.betas)


class Perfect(torch.nn.Module):
    """Knows the clean image, and so the noise."""

    def __init__(self, schedule, images, prediction_type):
        super().__init__()
        self.schedule, self.images, self.prediction_type = schedule, images, prediction_type
        self.config = type("Config", (), {"num_class_embeds": None})

    def forward(self, noisy, timesteps, class_labels=None):
        a = self.schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noise = (noisy - a.sqrt() * self.images) / (1 - a).sqrt()
        velocity = a.sqrt() * noise - (1 - a).sqrt() * self.images
        return type("Output", (), {"sample": noise if self.prediction_type == "epsilon" else velocity})


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_network_that_knows_the_answer_has_no_loss(prediction_type):
    schedule = DDPMScheduler(num_train_timesteps=50, prediction_type=prediction_type)
    images = torch.rand(8, 3, 8, 8) * 2 - 1
    model = Perfect(schedule, images, prediction_type)
    labels = torch.zeros(8, dtype=torch.long)
    assert denoising_losses(model, schedule, images, labels, Draws(range(8))).max() < 1e-4
    assert denoising_losses(model, schedule, images + 0.1, labels, Draws(range(8))).min() > 1e-4


def test_min_snr_only_lowers_losses_of_little_noise(tmp_path):
    unet, schedule = build(config("ddpm", tmp_path, tmp_path), 2)
    images, labels = torch.rand(16, 3, 16, 16), torch.zeros(16, dtype=torch.long)
    with torch.no_grad():
        plain = denoising_losses(unet, schedule, images, labels, Draws(range(16)))
        weighted = denoising_losses(unet, schedule, images, labels, Draws(range(16)), snr_gamma=5.0)
    timesteps = Draws(range(16)).integers(schedule.config.num_train_timesteps)
    a = schedule.alphas_cumprod[timesteps]
    ratio = a / (1 - a)
    torch.testing.assert_close(weighted / plain, ratio.clamp(max=5) / ratio)


def test_plain_diffusers_samples_a_run_without_classes(manifest_dir, tmp_path):
    train("ddpm", manifest_dir, tmp_path / "run", max_train_steps=1, class_conditional=False)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "run")
    assert type(pipeline).__name__ == "DDPMPipeline"
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 16, 16, 3)


def test_plain_diffusers_samples_a_run_with_classes_as_ours_does(manifest_dir, tmp_path):
    train("ddpm", manifest_dir, tmp_path / "run", max_train_steps=1)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "run")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    rngs = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = pipeline(batch_size=2, class_labels=[1, 2], num_inference_steps=4, generator=rngs, output_type="pt").images
    schedule = DDPMScheduler.from_pretrained(tmp_path / "run", subfolder="scheduler")
    classes = [f"class{i}" for i in range(7)]
    ours = DdpmGenerator(pipeline.unet, schedule, classes, 4, 1.0, "ddim").sample(["class1", "class2"], [3, 4])
    assert ((theirs * 255).round() - ours.float()).abs().max() <= 1


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "ddim", "ddpm", "euler", "pndm", "unipc"])
def test_every_sampler_generates_each_image_from_its_own_seed_call_after_call(scheduler, tmp_path):
    torch.manual_seed(0)
    unet, schedule = build(config("ddpm", tmp_path, tmp_path), 2)
    generator = DdpmGenerator(unet, schedule, ["a", "b"], 4, 1.0, scheduler)
    first = generator.sample(["a", "b", "a"], [1, 2, 3])
    again = generator.sample(["a", "a"], [3, 1])
    assert (first[[2, 0]].int() - again.int()).abs().max() <= 1


def test_guidance_extrapolates_from_no_class_to_the_class(tmp_path):
    torch.manual_seed(0)
    unet, _ = build(config("ddpm", tmp_path, tmp_path), 2)
    schedule = DDPMScheduler(num_train_timesteps=1, beta_start=0.5, beta_end=0.5)  # as much noise as image

    class Echo(torch.nn.Module):
        """Predicts 0.5 for the first class and 0.2 for none."""

        device, config, training = torch.device("cpu"), unet.config, False

        def forward(self, x, t, class_labels):
            value = torch.where(class_labels == 2, 0.2, 0.5).view(-1, 1, 1, 1).expand_as(x)
            return type("Output", (), {"sample": value})

    plain = DdpmGenerator(Echo(), schedule, ["a", "b"], 1, 1.0, "ddim")
    guided = DdpmGenerator(Echo(), schedule, ["a", "b"], 1, 3.0, "ddim")
    # One DDIM step gives (x - sqrt(1 - a) ε) / sqrt(a), clipped to [-1, 1].
    x = torch.randn((3, 16, 16), generator=torch.Generator().manual_seed(0))
    scheduler = DDIMScheduler.from_config(schedule.config)
    scheduler.set_timesteps(1)
    a = scheduler.alphas_cumprod[scheduler.timesteps[0]]
    for generator, epsilon in ((plain, 0.5), (guided, 0.2 + 3 * 0.3)):
        clean = ((x - (1 - a).sqrt() * epsilon) / a.sqrt()).clamp(-1, 1)
        expected = (clean * 127.5 + 127.5).round()
        assert (generator.sample(["a"], [0])[0] - expected).abs().max() <= 1


def test_guidance_without_classes_is_refused(tmp_path):
    unet, schedule = build(config("ddpm", tmp_path, tmp_path, class_conditional=False), 2)
    with pytest.raises(InputError, match="trained without classes"):
        DdpmGenerator(unet, schedule, [], 4, 3.0)


def test_no_group_of_the_network_is_one_channel():
    """Instance norm would take the colour of a whole image out."""
    for channels in ([32, 32], [32, 64, 96], [64, 128, 256, 256]):
        unet, _ = build(config("ddpm", ".", ".", channels=channels, resolution=32, attention_resolutions=None), 2)
        norms = [m for m in unet.modules() if isinstance(m, torch.nn.GroupNorm)]
        assert norms
        assert all(m.num_channels // m.num_groups >= 4 for m in norms)


def test_images_that_lose_their_class_train_the_embedding_of_none_alone(manifest_dir, tmp_path):
    def embeddings(name, **changes):
        train("ddpm", manifest_dir, tmp_path / name, max_train_steps=1, lr_warmup_steps=0, **changes)
        unet = DiffusionPipeline.from_pretrained(tmp_path / name).unet
        return unet.class_embedding.weight.detach()

    untrained = embeddings("untrained", learning_rate=0.0)
    dropped = embeddings("dropped", class_dropout=1 - 1e-9)
    kept = embeddings("kept", class_dropout=0.0)
    assert torch.equal(dropped[:-1], untrained[:-1])
    assert not torch.equal(dropped[-1], untrained[-1])
    assert not torch.equal(kept[:-1], untrained[:-1])
    assert torch.equal(kept[-1], untrained[-1])
