"""Settings of `dreambooth.py` and `dreambooth_lora.py`: the options of diffusers' scripts, and dermgen's own."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dermgen.config import FEW_IMAGES, FEW_ROWS, NEW_FOLDER, InputError, option
from dermgen.settings.training import TrainConfig

UNET_TARGETS = ("to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
# torchvision's InterpolationMode, by name.
Filter = Literal["nearest", "nearest_exact", "bilinear", "bicubic", "box", "hamming", "lanczos"]


@dataclass(frozen=True, kw_only=True)
class DreamboothConfig(TrainConfig):
    """Fine-tune all weights of a Stable Diffusion on a few images, or on a whole manifest with captions."""

    FOREIGN: ClassVar[dict[str, str | None]] = TrainConfig.FOREIGN | {
        "set_grads_to_none": None,  # they always are
        "validation_images": "is for DeepFloyd IF; a Stable Diffusion is validated from prompts",
        "hub_token": "can be read by others on this machine: use `hf auth login`, or set HF_TOKEN",
    }

    pretrained_model_name_or_path: str = option(
        None, "Stable Diffusion to start from: a Hub id, a folder, or phantom (ships with dermgen)", required=True
    )
    revision: str | None = option(None, "revision of the base model on the Hub")
    variant: str | None = option(None, "variant of the base model's weight files, e.g. fp16")
    tokenizer_name: str | None = option(None, "tokenizer to use instead of the base model's, an id or folder")

    instance_data_dir: str | None = option(
        None, "folder of instance images, which all get --instance_prompt", trial=FEW_IMAGES
    )
    instance_prompt: str | None = option(None, "prompt of the instance images; default the captions of the manifest")
    data_dir: str | None = option(
        None, "manifest folder to take instance images from, instead of instance_data_dir", trial=FEW_ROWS
    )
    instance_class: str | None = option(None, "class of the manifest to train on, e.g. mel; default all classes")
    exclude_classes: list[str] | None = option(None, "classes of the manifest to leave out")
    num_instance_images: int | None = option(
        None, "use this many images of the manifest; default all", at_least=1, trial=None
    )
    max_images_per_class: int | None = option(
        None, "use at most this many images of each class of the manifest", at_least=1, trial=None
    )
    class_data_dir: str | None = option(
        None, "folder of class images; missing ones are generated there", trial=NEW_FOLDER
    )
    class_prompt: list[str] | None = option(
        None, "prompt of the class images; several prompts take turns, so that each of their classes is preserved"
    )
    with_prior_preservation: bool = option(
        False, "also train on class images, to preserve what the base model generates for the class"
    )
    prior_loss_weight: float = option(1.0, "weight of the class images' loss")
    num_class_images: int = option(
        100,
        "number of class images; the base model generates those missing from class_data_dir, at its own resolution",
        at_least=1,
        trial=1,
    )
    sample_batch_size: int = option(
        4, "class images and validation images to generate at a time", at_least=1, free=True, trial=1
    )
    class_guidance_scale: float = option(7.5, "weight of the prompt of class images that are generated", at_least=1)
    prior_generation_precision: Literal["no", "fp32", "fp16", "bf16"] | None = option(
        None, "precision in which class images are generated; default fp16 on a GPU, else fp32", free=True
    )

    resolution: int = option(512, "height and width in pixels", multiple_of=8)
    center_crop: bool = option(False, "crop images in the middle instead of at random")
    random_flip: bool = option(False, "mirror half of the images, chosen at random")
    image_interpolation_mode: Filter = option("bilinear", "torchvision's name of the resizing filter")
    cache_latents: bool = option(
        True, "encode images once and keep the latents on disk, unless crops are random", free=True
    )
    pre_compute_text_embeddings: bool | None = option(
        None, "encode prompts once, before the training; default yes, unless the text encoder is trained", free=True
    )
    cache_dir: str | None = option(
        None,
        "folder of cached latents and embeddings; default $DERMGEN_CACHE or ~/.cache/dermgen",
        free=True,
        trial=NEW_FOLDER,
    )
    tokenizer_max_length: int | None = option(
        None, "largest number of tokens of a prompt; default the tokenizer's", at_least=1
    )
    text_encoder_use_attention_mask: bool = option(False, "mask padding tokens in the text encoder")
    caption_dropout: float = option(0.0, "share of images that are trained on with an empty prompt", within="[0, 1)")

    train_text_encoder: bool = option(False, "train the text encoder as well")
    learning_rate: float = option(5e-6, "peak learning rate")
    output_dir: str = option("dreambooth-model", "run folder")
    snr_gamma: float | None = option(
        None, "min-SNR gamma, for instance and class images; default no weighting; 5 is the paper's value", above=0
    )
    offset_noise: bool = option(False, "add noise that is constant over an image, with --offset_noise_strength")
    offset_noise_strength: float = option(0.1, "strength of the noise of --offset_noise")
    prediction_type: Literal["epsilon", "v_prediction"] | None = option(
        None, "what the network predicts; default as in the base model"
    )
    mask_loss_weight: float = option(
        0.0, "extra weight of the pixels of the lesion mask in the loss; 0 is off", at_least=0
    )
    class_labels_conditioning: Literal["timesteps"] | None = option(None, "pass timesteps to the UNet as class labels")
    gradient_checkpointing: bool = option(
        False, "save memory by recomputing activations, with a slower backward pass", free=True
    )
    enable_xformers_memory_efficient_attention: bool = option(
        False, "use attention of xformers instead of PyTorch's", free=True
    )
    skip_save_text_encoder: bool = option(False, "leave the text encoder out of the saved pipeline", free=True)

    validation_prompt: list[str] | None = option(None, "prompts of the sample grids", free=True, trial=None)
    num_validation_images: int = option(4, "images per prompt in a sample grid", at_least=1, free=True)
    validation_guidance_scale: float = option(7.5, "guidance towards the prompt in a sample grid", free=True)
    validation_steps: int | None = option(
        None, "optimizer steps between sample grids; default 100", at_least=1, free=True, trial=None
    )
    validation_epochs: int | None = option(
        None, "epochs between sample grids, instead of validation_steps", at_least=1, free=True
    )
    validation_scheduler: Literal["DPMSolverMultistepScheduler", "DDPMScheduler"] = option(
        "DPMSolverMultistepScheduler", "sampler of the sample grids", free=True
    )
    validation_base_rows: bool = option(
        True, "a row of the base model's images above each row of a sample grid", free=True
    )
    held_out_steps: int | None = option(
        None, "optimizer steps between held-out losses on the manifest's val split", free=True, trial=None
    )
    held_out_images: int = option(
        64, "largest number of images of the val split for the held-out loss", at_least=1, free=True
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.instance_data_dir is None) == (self.data_dir is None):
            raise InputError("give either --instance_data_dir (a folder) or --data_dir (a manifest)")
        if self.instance_data_dir and not self.instance_prompt:
            raise InputError("--instance_prompt is needed with --instance_data_dir")
        if self.with_prior_preservation and not (self.class_data_dir and self.class_prompt):
            raise InputError("--with_prior_preservation needs --class_data_dir and --class_prompt")
        if self.train_text_encoder and self.pre_compute_text_embeddings:
            raise InputError("--train_text_encoder cannot be used with --pre_compute_text_embeddings")
        if self.mask_loss_weight and (self.data_dir is None or self.with_prior_preservation):
            raise InputError(
                "--mask_loss_weight needs the masks of a manifest (--data_dir), without prior preservation"
            )
        if self.held_out_steps and self.data_dir is None:
            raise InputError("--held_out_steps needs a manifest (--data_dir), whose val split is held out")
        if self.validation_steps is not None and self.validation_epochs is not None:
            raise InputError("give either --validation_steps or --validation_epochs")

    @property
    def base_model(self) -> str:
        return self.pretrained_model_name_or_path

    @property
    def adapters(self) -> dict[str, Any] | None:
        """The arguments of `LoraWeights`; None if all weights are trained."""
        return None

    @property
    def encodes_prompts_once(self) -> bool:
        """Whether all prompts are encoded before the training."""
        if self.pre_compute_text_embeddings is None:
            return not self.train_text_encoder
        return self.pre_compute_text_embeddings

    def validate_every(self, steps_per_epoch: int) -> int | None:
        """Optimizer steps between sample grids; None for no grids."""
        if not self.validation_prompt:
            return None
        if self.validation_epochs:
            return self.validation_epochs * steps_per_epoch
        return self.validation_steps or self._default_validation_steps(steps_per_epoch)

    def _default_validation_steps(self, steps_per_epoch: int) -> int:
        return 100  # as in diffusers' script for all weights


@dataclass(frozen=True, kw_only=True)
class DreamboothLoraConfig(DreamboothConfig):
    """Fine-tune LoRA adapters of a Stable Diffusion on a few images, or on a whole manifest with captions."""

    output_dir: str = option("lora-dreambooth-model", "run folder")
    learning_rate: float = option(5e-4, "peak learning rate")
    image_interpolation_mode: Filter = option("lanczos", "torchvision's name of the resizing filter")
    validation_steps: int | None = option(None, "optimizer steps between sample grids; default 50 epochs")
    rank: int = option(4, "rank of the LoRA adapters", at_least=1)
    lora_alpha: float | None = option(
        None, "alpha of the LoRA adapters, whose update is scaled by alpha / rank; default the rank"
    )
    lora_dropout: float = option(0.0, "dropout on the input of the LoRA adapters", within="[0, 1)")
    use_dora: bool = option(False, "train weight-decomposed adapters (DoRA)")
    lora_target_modules: list[str] | None = option(
        None, f"UNet layers that get LoRA adapters, by the end of their names; default {' '.join(UNET_TARGETS)}"
    )

    @property
    def adapters(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "alpha": self.rank if self.lora_alpha is None else self.lora_alpha,
            "dropout": self.lora_dropout,
            "use_dora": self.use_dora,
            "target_modules": self.lora_target_modules or UNET_TARGETS,
        }

    def _default_validation_steps(self, steps_per_epoch: int) -> int:
        return 50 * steps_per_epoch  # as in diffusers' script for LoRA
