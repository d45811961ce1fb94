"""Settings of `ddpm.py`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import InputError, option
from dermgen.settings.training import FromScratchConfig


@dataclass(frozen=True, kw_only=True)
class DdpmConfig(FromScratchConfig):
    """Train a denoising diffusion model in pixels from scratch."""

    channels: list[int] | None = option(None, "channels of the UNet's levels; default 64 128 256 256", multiple_of=32)
    layers_per_block: int = option(2, "residual blocks per level", at_least=1)
    attention_resolutions: list[int] | None = option(
        None, "heights in pixels of feature maps with self-attention; default 16 and 8"
    )
    dropout: float = option(0.0, "dropout in residual blocks", within="[0, 1)")
    # In fewer steps the scaled linear schedule would have a beta above 1.
    num_train_timesteps: int = option(1000, "steps of the forward process", at_least=21)
    beta_schedule: Literal["linear", "squaredcos_cap_v2"] = option(
        "linear",
        "noise schedule, named as in diffusers: the paper's, or the cosine schedule of Nichol and Dhariwal 2021",
    )
    prediction_type: Literal["epsilon", "v_prediction"] = option("epsilon", "what the network predicts")
    snr_gamma: float | None = option(None, "min-SNR gamma; 5 is the paper's value", above=0)
    class_dropout: float = option(
        0.1, "share of images that are trained on without their class, for classifier-free guidance", within="[0, 1)"
    )
    max_grad_norm: float = option(
        1.0, "largest gradient norm; larger ones are clipped; 1 as in the paper's code", infinite=True
    )
    validation_guidance_scale: float = option(1.0, "guidance towards the class in a sample grid; 1 is none")
    validation_inference_steps: int = option(50, "denoising steps of a sample grid, by DDIM", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        channels = [64, 128, 256, 256] if self.channels is None else self.channels
        factor = 2 ** (len(channels) - 1)
        if self.resolution % factor:
            raise InputError(
                f"resolution must be a multiple of {factor} for {len(channels)} levels of channels, got "
                f"{self.resolution}"
            )
        if self.validation_inference_steps > self.num_train_timesteps:
            raise InputError(
                f"validation_inference_steps is {self.validation_inference_steps}, more than num_train_timesteps, "
                f"{self.num_train_timesteps}: lower it"
            )
        if self.validation_guidance_scale != 1 and not self.class_conditional:
            raise InputError("validation_guidance_scale steers towards a class: it needs --class_conditional")
        heights = [self.resolution // 2**i for i in range(len(channels))]
        if set(self.attention_resolutions or ()) - set(heights):
            raise InputError(
                f"attention_resolutions must be among the levels' heights {heights}, got {self.attention_resolutions}"
            )
