"""Settings of `dreambooth.py` and `dreambooth_lora.py`: the options of diffusers' scripts, and ours."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dermgen.config import InputError, option, require_at_least
from dermgen.settings.training import TrainConfig

UNET_TARGETS = ("to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
# torchvision's InterpolationMode, by name.
FILTERS = "nearest nearest_exact bilinear bicubic box hamming lanczos".split()


@dataclass(frozen=True, kw_only=True)
class DreamboothConfig(TrainConfig):
    """Fine-tune all weights of a Stable Diffusion on a few images, or on a whole manifest with captions."""

    MAY_CHANGE: ClassVar[frozenset[str]] = TrainConfig.MAY_CHANGE | frozenset(
        "cache_dir cache_latents pre_compute_text_embeddings sample_batch_size gradient_checkpointing "
        "set_grads_to_none validation_prompt "
        "validation_guidance_scale num_validation_images validation_steps validation_epochs validation_scheduler "
        "held_out_steps held_out_images skip_save_text_encoder "
        "prior_generation_precision".split()
    )

    pretrained_model_name_or_path: str = option(None, "Stable Diffusion to start from: a Hub id or a folder")
    revision: str | None = option(None, "revision of a Hub model")
    variant: str | None = option(None, "variant of the weight files, e.g. fp16")
    tokenizer_name: str | None = option(None, "another tokenizer than the model's")

    instance_data_dir: str | None = option(None, "folder of instance images, all with --instance_prompt")
    instance_prompt: str | None = option(None, "prompt of the instance images; default the captions of the manifest")
    data_dir: str | None = option(None, "manifest folder to take instance images from, in place of instance_data_dir")
    instance_class: str | None = option(None, "class of the manifest to teach, e.g. mel; default all classes")
    exclude_classes: list[str] | None = option(None, "classes of the manifest to leave out")
    num_instance_images: int | None = option(None, "use this many images of the manifest; default all")
    max_images_per_class: int | None = option(None, "use at most this many images of each class of the manifest")
    class_data_dir: str | None = option(None, "folder of class images; missing ones are made there")
    class_prompt: str | None = option(None, "prompt of the class images")
    with_prior_preservation: bool = option(False, "train on class images beside the instance images")
    prior_loss_weight: float = option(1.0, "of the class images' loss")
    num_class_images: int = option(100, "class images wanted; the model draws what class_data_dir lacks, at its size")
    sample_batch_size: int = option(4, "class images and validation images drawn at a time")
    prior_generation_precision: Literal["no", "fp32", "fp16", "bf16"] | None = option(
        None, "of drawing class images; default fp16 on a GPU, else fp32"
    )

    resolution: int = option(512, "height and width in pixels")
    center_crop: bool = option(False, "crop the middle; otherwise at random")
    random_flip: bool = option(False, "mirror images at random")
    image_interpolation_mode: str = option("bilinear", "torchvision's name of the resizing filter")
    cache_latents: bool = option(True, "encode images once and keep the latents on disk, where no crop is random")
    pre_compute_text_embeddings: bool | None = option(
        None, "encode prompts once; default yes, unless the text encoder is trained"
    )
    cache_dir: str | None = option(None, "of latents and embeddings; default $DERMGEN_CACHE or ~/.cache/dermgen")
    tokenizer_max_length: int | None = option(None, "tokens of a prompt; default the tokenizer's")
    text_encoder_use_attention_mask: bool = option(False, "keep the text encoder from padding tokens")
    caption_dropout: float = option(0.0, "share of images that are shown with an empty prompt")

    train_text_encoder: bool = option(False, "train the text encoder as well")
    learning_rate: float = option(5e-6, "peak learning rate")
    output_dir: str = option("dreambooth-model", "run folder")
    snr_gamma: float | None = option(None, "min-SNR gamma, for instance and class images; 5 is the paper's value")
    offset_noise: bool = option(False, "add noise that is constant over the image, times offset_noise_strength")
    offset_noise_strength: float = option(0.1, "of offset noise")
    prediction_type: Literal["epsilon", "v_prediction"] | None = option(None, "default what the model was made for")
    mask_loss_weight: float = option(0.0, "extra weight of the lesion's pixels in the loss; 0 is off")
    class_labels_conditioning: Literal["timesteps"] | None = option(None, "class labels handed to the UNet")
    gradient_checkpointing: bool = option(False, "less memory for a slower backward pass")
    enable_xformers_memory_efficient_attention: bool = option(False, "xformers in place of PyTorch's own attention")
    set_grads_to_none: bool = option(True, "accepted; gradients are always freed")
    skip_save_text_encoder: bool = option(False, "leave the text encoder out of the saved pipeline")

    validation_prompt: list[str] | None = option(None, "prompts of the sample grids")
    num_validation_images: int = option(4, "images per prompt in a sample grid")
    validation_guidance_scale: float = option(7.5, "weight of the prompt in a sample grid")
    validation_steps: int | None = option(None, "optimizer steps between sample grids; default 100")
    validation_epochs: int | None = option(None, "epochs between sample grids, in place of steps")
    validation_scheduler: Literal["DPMSolverMultistepScheduler", "DDPMScheduler"] = option(
        "DPMSolverMultistepScheduler", "of the sample grids"
    )
    validation_images: list[str] | None = option(None, "of DeepFloyd IF's scripts; not for Stable Diffusion")
    held_out_steps: int | None = option(None, "optimizer steps between held-out losses on the manifest's val split")
    held_out_images: int = option(64, "at most this many for the held-out loss")

    hub_token: str | None = option(
        None, "not taken, since others can read a command line: `hf auth login`, or HF_TOKEN"
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.pretrained_model_name_or_path:
            raise InputError("--pretrained_model_name_or_path is needed: a Hub id or folder of a Stable Diffusion")
        if (self.instance_data_dir is None) == (self.data_dir is None):
            raise InputError("give either --instance_data_dir (a folder) or --data_dir (a manifest)")
        if self.instance_data_dir and not self.instance_prompt:
            raise InputError("--instance_prompt is needed with --instance_data_dir")
        if self.with_prior_preservation and not (self.class_data_dir and self.class_prompt):
            raise InputError("--with_prior_preservation needs --class_data_dir and --class_prompt")
        if self.resolution % 8 or self.resolution < 8:
            raise InputError(f"resolution must be a positive multiple of 8, got {self.resolution}")
        if self.train_text_encoder and self.pre_compute_text_embeddings:
            raise InputError("--train_text_encoder cannot be used with --pre_compute_text_embeddings")
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            raise InputError(f"snr_gamma must be above 0, got {self.snr_gamma}: leave it out for the plain loss")
        if self.mask_loss_weight < 0 or not 0 <= self.caption_dropout < 1:
            raise InputError("mask_loss_weight must be at least 0, and caption_dropout in [0, 1)")
        if self.mask_loss_weight and (self.data_dir is None or self.with_prior_preservation):
            raise InputError(
                "--mask_loss_weight needs the masks of a manifest (--data_dir), without prior preservation"
            )
        if self.held_out_steps and self.data_dir is None:
            raise InputError("--held_out_steps needs a manifest (--data_dir), whose val split is held out")
        if self.validation_images:
            raise InputError("--validation_images is for DeepFloyd IF; a Stable Diffusion is validated from prompts")
        if self.hub_token:
            raise InputError("--hub_token can be read by others on this machine: use `hf auth login`, or set HF_TOKEN")
        if self.validation_steps is not None and self.validation_epochs is not None:
            raise InputError("give either --validation_steps or --validation_epochs")
        require_at_least(1, num_class_images=self.num_class_images, sample_batch_size=self.sample_batch_size)
        require_at_least(1, num_validation_images=self.num_validation_images, held_out_images=self.held_out_images)
        counts = "num_instance_images max_images_per_class tokenizer_max_length validation_steps validation_epochs"
        for name in counts.split():
            if getattr(self, name) is not None:
                require_at_least(1, **{name: getattr(self, name)})
        if self.image_interpolation_mode not in FILTERS:
            raise InputError(f"image_interpolation_mode must be one of {', '.join(FILTERS)}")


@dataclass(frozen=True, kw_only=True)
class DreamboothLoraConfig(DreamboothConfig):
    """Fine-tune LoRA adapters of a Stable Diffusion on a few images, or on a whole manifest with captions."""

    output_dir: str = option("lora-dreambooth-model", "run folder")
    learning_rate: float = option(5e-4, "peak learning rate")
    image_interpolation_mode: str = option("lanczos", "torchvision's name of the resizing filter")
    validation_steps: int | None = option(None, "optimizer steps between sample grids; default 50 epochs")
    rank: int = option(4, "of the LoRA matrices")
    lora_alpha: float | None = option(None, "scale of the update, alpha / rank; default the rank")
    lora_dropout: float = option(0.0, "on the adapters' input")
    use_dora: bool = option(False, "weight-decomposed adapters (DoRA)")
    lora_target_modules: list[str] | None = option(None, f"ends of UNet layer names; default {' '.join(UNET_TARGETS)}")

    def __post_init__(self):
        super().__post_init__()
        require_at_least(1, rank=self.rank)
        if not 0 <= self.lora_dropout < 1:
            raise InputError(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")
