"""Settings that every training shares, and those of methods trained from scratch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dermgen.config import FEW_ROWS, NEW_FOLDER, SEEDS, InputError, check, option

LrScheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training method needs. Batch sizes are per process; steps are optimizer steps.

    A resumed run may change what decides how long, how often and where, never what the k-th image does.
    """

    # Flags of other programs: None where they are accepted without effect, or why they are refused.
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
    num_train_epochs: int = option(1, "passes over the data, where max_train_steps is not given", at_least=1, free=True)
    learning_rate: float = option(1e-4, "peak learning rate", at_least=0)
    scale_lr: bool = option(False, "multiply the learning rate by batch size x accumulation x processes")
    lr_scheduler: LrScheduler = option("constant", "learning-rate schedule, by diffusers' names")
    lr_warmup_steps: int = option(500, "optimizer steps of linear warm-up; 'constant' has none", at_least=0, trial=0)
    lr_num_cycles: int = option(1, "hard restarts of 'cosine_with_restarts'", at_least=1)
    lr_power: float = option(1.0, "power of 'polynomial'")
    adam_beta1: float = option(0.9, "AdamW's decay of the first moment", within="[0, 1)")
    adam_beta2: float = option(0.999, "AdamW's decay of the second moment", within="[0, 1)")
    adam_weight_decay: float = option(1e-2, "AdamW's decoupled weight decay")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon")
    use_8bit_adam: bool = option(False, "AdamW with 8-bit moments from bitsandbytes")
    max_grad_norm: float = option(1.0, "clip the gradient norm to this", infinite=True, above=0)
    ema_decay: float = option(
        0.0, "decay of the exponential moving average of the weights; 0 disables it", within="[0, 1)"
    )
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(None, "overrides the accelerate config", free=True)
    allow_tf32: bool = option(False, "TF32 matrix products on Ampere and later GPUs", free=True)
    torch_compile: bool = option(False, "compile the trained networks with torch.compile", free=True)
    checkpointing_steps: int = option(
        500, "optimizer steps between checkpoints; the last step always has one", at_least=1, free=True, trial=1
    )
    checkpoints_total_limit: int | None = option(
        None, "keep this many newest checkpoints of the run; default all", at_least=1, free=True, trial=None
    )
    resume_from_checkpoint: str | None = option(
        None,
        "'latest' or a checkpoint folder; a run folder with checkpoints resumes from the last one in any case",
        free=True,
        trial=None,
    )
    logging_steps: int = option(
        10, "optimizer steps between two lines of metrics.jsonl, each their mean", at_least=1, free=True
    )
    logging_dir: str = option("logs", "tracker files, inside output_dir", free=True)
    report_to: str = option("tensorboard", "tensorboard, wandb, comet_ml, all or none", free=True, trial="none")
    dataloader_num_workers: int = option(0, "data loading processes per training process", at_least=0, free=True)
    push_to_hub: bool = option(False, "publish the run when training is done, privately", free=True, trial=False)
    hub_model_id: str | None = option(None, "repository to publish to; default the name of output_dir", free=True)
    hub_force: str | None = option(
        None, "why to publish without an audit for copies; printed on the card", free=True, in_words=True
    )

    def __post_init__(self):
        check(self)


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
        False, "train a model that generates images of a requested class; otherwise of any"
    )
    resolution: int = option(64, "height and width in pixels", at_least=8)
    random_flip: bool = option(False, "mirror half of the training images")
    random_rotation: bool = option(False, "turn training images by 0, 90, 180 or 270 degrees")
    random_crop: float = option(1.0, "smallest side of a random crop, as a fraction; 1 cuts nothing", within="(0, 1]")
    intensity_scaling: float = option(0.0, "multiply intensities by a random factor in 1 ± this", within="[0, 1)")
    learning_rate: float = option(2e-4, "peak learning rate")
    adam_weight_decay: float = option(0.0, "decoupled weight decay; 0 is plain Adam")
    max_grad_norm: float = option(float("inf"), "clip the gradient norm to this; inf does not clip", infinite=True)
    validation_steps: int | None = option(
        500, "optimizer steps between sample grids, loss curves and validations", at_least=1, free=True, trial=None
    )
    validation_images: int = option(256, "use at most this many images of the val split", at_least=1)
    num_sample_images: int = option(32, "images of a sample grid", at_least=1, free=True)
    cache_dir: str | None = option(
        None, "folder of cached decoded images; default $DERMGEN_CACHE or ~/.cache/dermgen", free=True, trial=NEW_FOLDER
    )

    def __post_init__(self):
        super().__post_init__()
        if self.use_8bit_adam:
            raise InputError("use_8bit_adam is for fine-tuning large models: models trained from scratch take Adam")


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(FromScratchConfig):
    """Settings of every method that trains a discriminator against a generator."""

    adam_beta1: float = option(0.5, "Adam's decay of the first moment")
    discriminator_learning_rate: float | None = option(
        None, "learning rate of the discriminator; default that of the generator", at_least=0
    )
    monitor: str = option("pixels", "features of the held-out KID: a classifier run, pixels, or what evaluate takes")
    monitor_samples: int = option(256, "images generated for the held-out KID", at_least=8)
    lpips: Literal["none", "alex", "vgg"] = option("none", "network of the samples' LPIPS variety, from torchvision")

    def __post_init__(self):
        super().__post_init__()
        if self.torch_compile:
            raise InputError("torch_compile does not work here: PyTorch cannot differentiate a compiled network twice")
        if self.gradient_accumulation_steps > 1:
            raise InputError(
                "gradient_accumulation_steps must be 1 in adversarial training, whose generator would otherwise meet "
                "two discriminators in one step: raise train_batch_size, or the number of processes"
            )
