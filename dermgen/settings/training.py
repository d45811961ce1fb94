"""Settings that every training shares, and those of methods trained from scratch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dermgen.config import FEW_ROWS, NEW_FOLDER, SEEDS, InputError, check, option

LrScheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of every training. Batch sizes are per process; steps are optimizer steps.

    A resumed run may change how long it trains, how often it reports and where, never what happens to an image.
    """

    # Flags of other programs: None if they are accepted without effect, otherwise why they are refused.
    FOREIGN: ClassVar[dict[str, str | None]] = {"local_rank": None}

    output_dir: str = option(
        "run", "the run folder: config, checkpoints, logs, samples and the final weights", free=True, trial=NEW_FOLDER
    )
    method: str | None = option(
        None, "training method that a recipe is for; default what its file name begins with", free=True
    )
    seed: int = option(0, "seeds the weights, the data order, the noise and the samples", within=SEEDS)
    train_batch_size: int = option(4, "images per process and forward pass", at_least=1, free=True)
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step", at_least=1, free=True)
    max_train_steps: int | None = option(
        None, "optimizer steps; overrides num_train_epochs", at_least=1, free=True, trial=1
    )
    num_train_epochs: int = option(1, "passes over the data, if max_train_steps is not given", at_least=1, free=True)
    learning_rate: float = option(1e-4, "peak learning rate", at_least=0)
    scale_lr: bool = option(False, "multiply the learning rate by batch size x accumulation x processes")
    lr_scheduler: LrScheduler = option("constant", "learning-rate schedule, named as in diffusers")
    lr_warmup_steps: int = option(
        500, "optimizer steps of linear warm-up; none with the 'constant' schedule", at_least=0, trial=0
    )
    lr_num_cycles: int = option(1, "number of hard restarts of the 'cosine_with_restarts' schedule", at_least=1)
    lr_power: float = option(1.0, "exponent of the 'polynomial' schedule")
    adam_beta1: float = option(0.9, "AdamW's decay rate of the first moment", within="[0, 1)")
    adam_beta2: float = option(0.999, "AdamW's decay rate of the second moment", within="[0, 1)")
    adam_weight_decay: float = option(1e-2, "AdamW's decoupled weight decay")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon, added to the denominator")
    use_8bit_adam: bool = option(False, "use AdamW with 8-bit moments, from bitsandbytes")
    max_grad_norm: float = option(1.0, "largest gradient norm; larger ones are clipped", infinite=True, above=0)
    ema_decay: float = option(
        0.0, "decay of the exponential moving average of the weights; 0 disables it", within="[0, 1)"
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        None, "precision of training; default that of the accelerate config", free=True
    )
    allow_tf32: bool = option(False, "use TF32 matrix products on Ampere and later GPUs", free=True)
    torch_compile: bool = option(False, "compile the trained networks with torch.compile", free=True)
    checkpointing_steps: int = option(
        500, "optimizer steps between checkpoints; the last step always has one", at_least=1, free=True, trial=1
    )
    checkpoints_total_limit: int | None = option(
        None, "keep only this many of the newest checkpoints; default all", at_least=1, free=True, trial=None
    )
    resume_from_checkpoint: str | None = option(
        None,
        "checkpoint folder to resume from, or 'latest'; default the last one in the run folder, if there is any",
        free=True,
        trial=None,
    )
    logging_steps: int = option(10, "optimizer steps that each line of metrics.jsonl averages", at_least=1, free=True)
    logging_dir: str = option("logs", "folder of the trackers' files, inside output_dir", free=True)
    report_to: str = option(
        "tensorboard", "experiment tracker: tensorboard, wandb, comet_ml, all or none", free=True, trial="none"
    )
    dataloader_num_workers: int = option(0, "data-loading processes per training process", at_least=0, free=True)
    push_to_hub: bool = option(
        False, "publish the finished run on the Hub, in a private repository", free=True, trial=False
    )
    hub_model_id: str | None = option(
        None, "repository on the Hub to publish to; default the name of output_dir", free=True
    )
    hub_force: str | None = option(
        None, "why to publish without an audit for copies; printed on the card", free=True, in_words=True
    )

    def __post_init__(self):
        check(self)

    @property
    def base_model(self) -> str | None:
        """Folder or Hub id of the model that the training starts from; None where it starts from random weights."""
        return None


@dataclass(frozen=True, kw_only=True)
class FromScratchConfig(TrainConfig):
    """Settings of every method that is trained from scratch on a manifest."""

    data_dir: str = option(
        None, "manifest folder of real images, whose train split is trained on", required=True, trial=FEW_ROWS
    )
    only_classes: list[str] | None = option(None, "train on these classes only, e.g. mel; default all")
    exclude_classes: list[str] | None = option(None, "leave these classes out")
    max_images_per_class: int | None = option(
        None, "train on at most this many images of each class; default all", at_least=1, trial=None
    )
    class_conditional: bool = option(
        False, "train a model that generates images of a requested class; otherwise of any class"
    )
    resolution: int = option(64, "height and width in pixels", at_least=8)
    random_flip: bool = option(False, "mirror half of the training images left to right")
    random_rotation: bool = option(False, "rotate training images by 0, 90, 180 or 270 degrees")
    random_crop: float = option(1.0, "smallest side of a random crop, as a fraction; 1 does not crop", within="(0, 1]")
    intensity_scaling: float = option(0.0, "multiply intensities by a random factor in 1 ± this", within="[0, 1)")
    learning_rate: float = option(2e-4, "peak learning rate")
    adam_weight_decay: float = option(0.0, "decoupled weight decay; 0 is plain Adam")
    max_grad_norm: float = option(
        float("inf"), "largest gradient norm; larger ones are clipped; inf does not clip", infinite=True
    )
    validation_steps: int | None = option(
        500, "optimizer steps between validations, with sample grids and loss curves", at_least=1, free=True, trial=None
    )
    validation_images: int = option(256, "largest number of images of the val split to validate on", at_least=1)
    num_sample_images: int = option(32, "number of images in a sample grid", at_least=1, free=True)
    cache_dir: str | None = option(
        None, "folder of cached decoded images; default $DERMGEN_CACHE or ~/.cache/dermgen", free=True, trial=NEW_FOLDER
    )

    def __post_init__(self):
        super().__post_init__()
        if self.use_8bit_adam:
            raise InputError(
                "use_8bit_adam is for fine-tuning large models: models trained from scratch take Adam, so leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(FromScratchConfig):
    """Settings of every method that trains a discriminator against a generator."""

    adam_beta1: float = option(0.5, "Adam's decay rate of the first moment")
    discriminator_learning_rate: float | None = option(
        None, "learning rate of the discriminator; default that of the generator", at_least=0
    )
    monitor: str = option(
        "pixels", "features of the held-out KID: a classifier run, pixels, or another extractor of `dermgen evaluate`"
    )
    monitor_samples: int = option(256, "images generated for the held-out KID", at_least=8)
    lpips: Literal["none", "alex", "vgg"] = option(
        "none", "backbone of LPIPS, by which the variety of samples is measured; none does not"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.torch_compile:
            raise InputError(
                "torch_compile does not work for adversarial training, since PyTorch cannot differentiate a compiled "
                "network twice: leave it out"
            )
        if self.gradient_accumulation_steps > 1:
            raise InputError(
                "gradient_accumulation_steps must be 1 in adversarial training, whose generator would otherwise face "
                "two discriminators in one step: raise train_batch_size, or the number of processes"
            )
