"""The most memory that a fine-tuning holds at once, from running it on tensors without data.

PyTorch's `FakeTensorMode` runs the very networks, forward and backward, on tensors that have a shape and a type but no
data, and the bytes that are alive at once are counted. Gradients' companions (optimizer, moving average) are added by
arithmetic. A device holds more than tensors: its own context, gaps of the allocator, work space of convolutions.
"""

import copy
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import CLIPTextConfig, CLIPTextModel

from dermgen.blocks import size
from dermgen.findings import TOO_LARGE_FOR_A_CPU, Finding
from dermgen.settings.dreambooth import DreamboothConfig
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.stable_diffusion.files import WEIGHTED, local_folder
from dermgen.stable_diffusion.pipeline import DTYPES, dtype_of, quiet_libraries
from dermgen.stable_diffusion.weights import FullWeights, LoraWeights
from dermgen.training.trained_weights import trained

USABLE = 0.85  # of a device; the rest is for what is no tensor
TOKENS = 77  # of a prompt
ENCODED = 8  # images whose latents are computed at a time, see `inputs.cache_latents`
# The configs of Stable Diffusion 1.x, so that a recipe can be judged before 4 GB are downloaded.
STABLE_DIFFUSION_1 = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    },
    "text_encoder": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    },
}  # fmt: skip
KNOWN = dict.fromkeys(
    (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4",
    ),
    STABLE_DIFFUSION_1,
)


@dataclass(frozen=True)
class Estimate:
    """Bytes of all tensors at the largest moment of each part of a fine-tuning; 0 where the recipe has no such part.

    Attributes:
        class_images: while the base model generates them.
        latents: while the images are encoded.
        step: of an optimizer step.
        samples: while a sample grid is generated.
        check: while the saved weights are compared with the trained ones.
    """

    class_images: int
    latents: int
    step: int
    samples: int
    check: int

    @property
    def peak(self) -> int:
        return max(vars(self).values())

    def __str__(self) -> str:
        largest = max(vars(self), key=vars(self).__getitem__).replace("_", " ")
        step = "" if largest == "step" else f", {size(self.step)} in a step"
        return f"{size(self.peak)} at most ({largest}){step}"


def findings(config: DreamboothConfig, base: BaseModel, weights: FullWeights | LoraWeights) -> Iterator[Finding]:
    """What a recipe takes on the device that it is for, where the networks of its base model are known."""
    networks = architecture(base)
    if networks is None:
        return
    cuda = torch.cuda.is_available()
    for_gpu = cuda or count_weights(networks) > TOO_LARGE_FOR_A_CPU
    precision = config.mixed_precision or ("bf16" if for_gpu else "no")  # as in accelerate_configs/
    found = estimate(networks, config, weights, precision, gpu=for_gpu)
    text = f"{found} by estimate, with mixed_precision {precision}"
    if for_gpu and not cuda:
        yield Finding("note", "memory", f"{text}; that needs a GPU with {size(found.peak / USABLE)} or more")
        return
    device = torch.cuda.mem_get_info()[1] if cuda else psutil.virtual_memory().total
    if found.peak > USABLE * device:
        more = "take dreambooth_lora.py, --gradient_checkpointing, --use_8bit_adam, or a smaller --train_batch_size"
        yield Finding("FIX", "memory", f"{text}, of {size(device)}: {more}")
    else:
        yield Finding("ok", "memory", f"{text}, of {size(device)}")


def architecture(base: BaseModel) -> Mapping[str, Mapping[str, Any]] | None:
    """The configs of a base model's networks by part; None where it must be downloaded and is not well known."""
    folder = local_folder(base.name_or_path, base.revision, base.variant)
    if folder is None:
        return KNOWN.get(base.name_or_path)
    return {part: json.loads(Path(folder, part, "config.json").read_text()) for part in WEIGHTED}


def count_weights(networks: Mapping[str, Mapping[str, Any]]) -> int:
    """Number of weights of all networks of an `architecture`."""
    with torch.device("meta"):
        return sum(p.numel() for part in _modules(networks).values() for p in part.parameters())


def estimate(
    networks: Mapping[str, Mapping[str, Any]],
    config: DreamboothConfig,
    weights: FullWeights | LoraWeights,
    precision: str,
    gpu: bool,
) -> Estimate:
    """The memory that a fine-tuning takes, on one process.

    What an optimizer step holds for each trained weight: it and its gradient in float32 (4 + 4 bytes); AdamW's two
    moments (8 bytes; in 8 bits 2, and 8 for each block of 256, Dettmers et al. 2022, arXiv:2110.02861); the moving
    average (4); and for a moment 4 more, for the roots of AdamW's second moments on a GPU, where PyTorch updates all
    weights together, or for the differences from the moving average. Frozen weights have the precision of the run.

    Args:
        networks: see `architecture`.
        config: of the training.
        weights: that it trains; they are attached to networks of no further use.
        precision: accelerate's `mixed_precision`.
        gpu: whether it runs on a GPU.
    """
    quiet_libraries()
    half = DTYPES[precision]
    with torch.device("meta"):
        pipeline = _pipeline(networks)
    vae, text_encoder, unet = pipeline.vae, pipeline.text_encoder, pipeline.unet
    whole = sum(p.numel() for part in (vae, text_encoder, unet) for p in part.parameters())
    at_a_time, class_images, samples = config.sample_batch_size, 0, 0
    if config.with_prior_preservation:
        dtype = dtype_of(config.prior_generation_precision, torch.device("cuda" if gpu else "cpu"))
        native = unet.config.sample_size * pipeline.vae_scale_factor
        class_images = _bytes(unet.to(dtype), text_encoder.to(dtype)) + _at_most(_decode(at_a_time, native), vae)
    unet_dtype, text_dtype = weights.precisions(half)
    vae.to(torch.float32 if half == torch.float16 else half)
    frozen = _bytes(unet.to(unet_dtype), text_encoder.to(text_dtype))
    together = ENCODED if config.cache_latents else config.train_batch_size
    latents = frozen + _at_most(_encode(together, config.resolution), vae)
    with torch.device("meta"):
        weights.attach(pipeline)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        text_encoder.gradient_checkpointing_enable()

    number = sum(p.numel() for model in weights.models for p in trained(model).values())
    moments = number * (2 + 2 * 8 / 256 if config.use_8bit_adam else 8)
    average = 4 * number if config.ema_decay else 0
    roots = 4 * number if gpu and not config.use_8bit_adam else 0
    between = _bytes(vae, text_encoder, unet) + moments + average  # of two steps
    others = [part for part in (vae, text_encoder, unet) if part not in weights.models]
    side, width = config.resolution // pipeline.vae_scale_factor, text_encoder.config.hidden_size
    passes = _bytes(*others) + _at_most(_passes(config, half, gpu, side, width), *weights.models)
    if config.validation_prompt:
        copies = number * half.itemsize if half != torch.float32 else 0  # that autocast makes of trained weights
        samples = between + average + copies + _at_most(_decode(at_a_time, config.resolution), vae) - _bytes(vae)
    # Where all weights are trained those networks are loaded again, otherwise a whole pipeline.
    again = unet_dtype.itemsize * whole if config.adapters else 4 * number
    step = max(passes + moments + average, between + 4 * number + roots, between + average)
    return Estimate(*map(round, (class_images, latents, step, samples, between + average + again)))


def _bytes(*modules: nn.Module) -> int:
    return sum(p.nbytes for module in modules for p in module.parameters())


def _at_most(run: Callable[..., None], *modules: nn.Module) -> int:
    """The most bytes that are alive while `run(*modules)` does, the modules' own among them."""
    copies = [copy.deepcopy(module) for module in modules]
    with FakeTensorMode(), _Held() as held:
        for module in copies:
            _make_fake(module)
        run(*copies)
    return held.peak


def _make_fake(module: nn.Module) -> None:
    """Give a module on the meta device tensors of the present `FakeTensorMode`."""
    for part in module.modules():
        for name, p in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=p.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))


class _Held(TorchDispatchMode):
    """Bytes of all tensors that are alive: `now`, and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._storages:
            self._storages.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, storage: int, number: int) -> None:
        self._storages.remove(storage)
        self.now -= number


def _pipeline(networks: Mapping[str, Mapping[str, Any]]) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        **_modules(networks),
        tokenizer=None,
        scheduler=DDPMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _modules(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, nn.Module]:
    return {
        "unet": UNet2DConditionModel.from_config(networks["unet"]),
        "vae": AutoencoderKL.from_config(networks["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_dict(networks["text_encoder"])),
    }


def _encode(images: int, resolution: int) -> Callable[[nn.Module], None]:
    @torch.no_grad()
    def run(vae: AutoencoderKL) -> None:
        vae.encode(torch.empty(images, 3, resolution, resolution, dtype=vae.dtype))

    return run


def _decode(images: int, resolution: int) -> Callable[[nn.Module], None]:
    """The largest part of drawing images: the UNet sees them at an eighth of their size."""

    @torch.no_grad()
    def run(vae: AutoencoderKL) -> None:
        side = resolution // 2 ** (len(vae.config.block_out_channels) - 1)
        vae.decode(torch.empty(images, vae.config.latent_channels, side, side, dtype=vae.dtype))

    return run


def _passes(config: DreamboothConfig, half: torch.dtype, gpu: bool, side: int, width: int) -> Callable[..., None]:
    """Forward and backward pass of a batch, onto gradients of batches before it where those are accumulated.

    Args:
        config: of the training.
        half: precision of the run.
        gpu: whether it runs on a GPU.
        side: height and width of the latents.
        width: of the prompts' embeddings.
    """
    images = config.train_batch_size * (2 if config.with_prior_preservation else 1)

    def run(unet: UNet2DConditionModel, *text_encoder: nn.Module) -> None:
        for model in (unet, *text_encoder):
            model.train()
            if gpu and half != torch.float32:
                _normalise_in_float32(model)
            for p in trained(model).values() if config.gradient_accumulation_steps > 1 else ():
                p.grad = torch.empty_like(p)
        latents = torch.empty(images, unet.config.in_channels, side, side, dtype=unet.dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=half != torch.float32):
            hidden = torch.empty(images, TOKENS, width, dtype=unet.dtype)
            for encoder in text_encoder:
                tokens = torch.zeros(images, encoder.config.max_position_embeddings, dtype=torch.long)
                hidden = encoder(tokens).last_hidden_state.to(unet.dtype)
            predicted = unet(latents, torch.zeros(images, dtype=torch.long), hidden).sample
        (predicted.float() - latents.float()).square().mean().backward()

    return run


def _normalise_in_float32(model: nn.Module) -> None:
    """As autocast does on a GPU (https://docs.pytorch.org/docs/stable/amp.html); on a CPU it uses half precision."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            for name, p in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(p.detach().float(), requires_grad=p.requires_grad))
            module.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
