"""Settings of `classifier.py`."""

from dataclasses import dataclass
from typing import Literal

from dermgen.config import FEW_ROWS, InputError, option
from dermgen.settings.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TrainConfig):
    """Train a classifier on the train split of a manifest, select its weights on val, and test it on test."""

    data_dir: str = option(None, "manifest folder of real images", required=True, trial=FEW_ROWS)
    synthetic_dir: str | None = option(None, "manifest folder of synthetic images to train on as well", trial=None)
    synthetic_ratio: float | None = option(
        None, "synthetic images per real image of a class; default all", at_least=0, trial=None
    )
    synthetic_classes: list[str] | None = option(
        None, "classes that get synthetic images; default all classes of the synthetic set", trial=None
    )
    only_kept: bool = option(False, "use only synthetic images that `dermgen filter` kept", trial=False)
    no_real: bool = option(False, "train on synthetic images only", trial=False)
    oversample: bool = option(False, "repeat the images of rare classes until all classes are equally large")
    pretrained_model_name_or_path: str = option(
        "google/vit-base-patch16-224-in21k",
        "image classifier of transformers: a Hub id or folder, e.g. microsoft/resnet-50",
    )
    revision: str | None = option(None, "revision of the Hub model")
    from_scratch: bool = option(False, "train a small ViT from random weights instead of a pretrained model")
    patch_size: int = option(8, "patch size of the ViT of --from_scratch, in pixels", at_least=1)
    width: int = option(192, "hidden size of the ViT of --from_scratch", at_least=1)
    layers: int = option(6, "number of layers of the ViT of --from_scratch", at_least=1)
    resolution: int = option(224, "height and width of the network's input, in pixels", at_least=1)
    freeze_stages: int = option(
        0, "freeze the input layer and this many first stages (ResNet) or layers (ViT); 0 freezes nothing", at_least=0
    )
    head_width: int = option(0, "hidden width of a dropout-linear-ReLU-dropout-linear head; 0 is a single linear layer")
    head_dropout: float = option(0.5, "dropout in the head of --head_width", within="[0, 1)")
    learning_rate: float = option(2e-5, "peak learning rate")
    lr_warmup_steps: int = option(0, "optimizer steps of linear warm-up; none with the 'constant' schedule")
    optimizer: Literal["adamw", "adam"] = option(
        "adamw", "adamw decouples the weight decay; adam adds it to the gradient"
    )
    class_weights: bool = option(False, "weight the loss by the inverse frequency of the class in training")
    label_smoothing: float = option(
        0.0, "label smoothing: share of the target that is spread evenly over all classes", within="[0, 1)"
    )
    mixup_alpha: float = option(
        0.0, "mixup: blend pairs of images with shares from Beta(alpha, alpha); 0 is off", at_least=0
    )
    no_augmentation: bool = option(False, "train without flips, rotations, crops and colour changes")
    rotation: float = option(180.0, "largest random rotation in either direction, in degrees", at_least=0)
    crop: float = option(0.8, "smallest side of a random crop, as a fraction; 1 does not crop", within="(0, 1]")
    color_jitter: float = option(
        0.1, "brightness, contrast and saturation each change by up to this share", within="[0, 1)"
    )
    validation_steps: int | None = option(
        None, "optimizer steps between validations; default once per epoch", at_least=1, trial=1
    )
    reduce_on_plateau_patience: int | None = option(
        None,
        "divide the learning rate by 10 after more than this many validations without a lower loss",
        at_least=0,
        trial=None,
    )
    early_stopping_patience: int | None = option(
        None, "stop after this many validations without a better BMA", at_least=1, trial=None
    )
    eval_batch_size: int = option(64, "images per process in validation and test", at_least=1, trial=8)

    def __post_init__(self):
        super().__post_init__()
        if self.no_real and self.synthetic_dir is None:
            raise InputError("--no_real needs --synthetic_dir, or there is nothing to train on")
        for name in ("synthetic_ratio", "synthetic_classes", "only_kept"):
            if getattr(self, name) not in (None, False) and self.synthetic_dir is None:
                raise InputError(f"--{name} needs --synthetic_dir")
        if self.use_8bit_adam:
            raise InputError("use_8bit_adam is not offered for classifiers: choose --optimizer adamw or adam")
        if self.from_scratch and (self.resolution % self.patch_size or self.width % 32):
            raise InputError(
                f"with from_scratch, resolution must be a multiple of patch_size, and width one of 32: got resolution "
                f"{self.resolution}, patch_size {self.patch_size} and width {self.width}"
            )

    @property
    def base_model(self) -> str | None:
        return None if self.from_scratch else self.pretrained_model_name_or_path
