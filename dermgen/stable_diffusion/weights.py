"""Which weights of a Stable Diffusion are trained, how they are stored under diffusers' names, and that they load.

`FullWeights` and `LoraWeights` have the same methods. `precisions` gives the data types of the UNet and the text
encoder, `attach` makes the weights of a pipeline trainable; from then on `models` are the modules to be trained,
`save_checkpoint` and `load_checkpoint` keep them in a checkpoint. `restore_frozen` prepares a pipeline for saving,
`save` writes the final files, `verify` reloads those into an untouched pipeline and compares.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel

from dermgen import installation
from dermgen.blocks import counted
from dermgen.config import InputError, whole_file
from dermgen.sampling import evaluating
from dermgen.settings.dreambooth import UNET_TARGETS
from dermgen.stable_diffusion.base_model import BaseModel
from dermgen.training.trained_weights import load_trained_state

LORA_FILE = "pytorch_lora_weights.safetensors"
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


class FullWeights:
    """All weights of the UNet, and of the text encoder if it is trained too; stored as a whole pipeline.

    Args:
        train_text_encoder: train the text encoder too.
        save_text_encoder: whether it is part of the saved pipeline.
    """

    shardable = True  # by FSDP

    def __init__(self, train_text_encoder: bool, save_text_encoder: bool = True):
        self.train_text_encoder, self.save_text_encoder = train_text_encoder, save_text_encoder
        self.pipeline: StableDiffusionPipeline

    def precisions(self, half: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
        return torch.float32, torch.float32 if self.train_text_encoder else half

    def attach(self, pipeline: StableDiffusionPipeline) -> Self:
        self.pipeline = pipeline
        pipeline.vae.requires_grad_(False)
        pipeline.text_encoder.requires_grad_(self.train_text_encoder)
        pipeline.unet.requires_grad_(True)
        return self

    @property
    def models(self) -> list[nn.Module]:
        return [self.pipeline.unet, *([self.pipeline.text_encoder] if self.train_text_encoder else [])]

    def restore_frozen(self, base: BaseModel) -> None:
        """Restore the frozen parts, which were rounded to the precision of the run."""
        base.restore(self.pipeline, "vae", *([] if self.train_text_encoder else ["text_encoder"]))

    def gathered(self, base: BaseModel, states: Sequence[dict[str, torch.Tensor]]) -> Self:
        """The same weights in a pipeline of their own, from FSDP's shards; `states` is empty on other processes."""
        pipeline = base.load()
        pipeline.register_modules(scheduler=self.pipeline.scheduler)
        whole = type(self)(self.train_text_encoder, self.save_text_encoder).attach(pipeline)
        for model, state in zip(whole.models, states, strict=False):
            load_trained_state(model, state)
        return whole

    def save_checkpoint(self, folder: Path) -> None:
        self.pipeline.unet.save_pretrained(folder / "unet")
        if self.train_text_encoder:
            self.pipeline.text_encoder.save_pretrained(folder / "text_encoder")

    def load_checkpoint(self, folder: Path) -> None:
        load_trained_state(self.pipeline.unet, UNet2DConditionModel.from_pretrained(folder / "unet").state_dict())
        if self.train_text_encoder:
            saved = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
            load_trained_state(self.pipeline.text_encoder, saved.state_dict())

    def save(self, folder: Path) -> None:
        if self.save_text_encoder:
            self.pipeline.save_pretrained(folder)
            return
        encoder, self.pipeline.text_encoder = self.pipeline.text_encoder, None
        try:
            self.pipeline.save_pretrained(folder)
        finally:
            self.pipeline.text_encoder = encoder

    def verify(self, folder: Path, base: BaseModel) -> float:
        saved = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)
        if self.train_text_encoder:
            encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).state_dict()
            for name, value in self.pipeline.text_encoder.state_dict().items():
                _require_close(value, encoder[name].to(value.device), folder)
        return _compare(self.pipeline.unet, saved.to(self.pipeline.unet.device), folder)


class LoraWeights:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on attention layers; stored as one small file.

    Args:
        train_text_encoder: add adapters to the text encoder too.
        rank: of the update matrices.
        alpha: scale; the update is multiplied by alpha / rank.
        dropout: on the adapters' input.
        use_dora: weight-decomposed adapters in the UNet (Liu et al. 2024, arXiv:2402.09353).
        target_modules: ends of the names of UNet layers.

    Raises:
        InputError: if the installed peft cannot put adapters on a text encoder.
    """

    shardable = False

    def __init__(
        self,
        train_text_encoder: bool,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        use_dora: bool = False,
        target_modules: Sequence[str] = UNET_TARGETS,
    ):
        if train_text_encoder:
            installation.require_text_encoder_adapters()
        self.train_text_encoder, self.use_dora, self.target_modules = train_text_encoder, use_dora, list(target_modules)
        self.settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "init_lora_weights": "gaussian"}
        self.pipeline: StableDiffusionPipeline

    def precisions(self, half: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
        return half, half

    def attach(self, pipeline: StableDiffusionPipeline) -> Self:
        """Add adapters to a pipeline whose own weights are frozen.

        Raises:
            InputError: if no layer of the UNet matches.
        """
        self.pipeline, targets = pipeline, self.target_modules
        for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
            part.requires_grad_(False)
        layers = [name for name, module in pipeline.unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        if not any(name == t or name.endswith(f".{t}") for name in layers for t in targets):
            endings = sorted(
                {n.split(".")[-1] if not n.split(".")[-1].isdigit() else ".".join(n.split(".")[-2:]) for n in layers}
            )
            raise InputError(
                f"no layer of the UNet matches the LoRA targets {', '.join(targets)}; it has {', '.join(endings)}"
            )
        pipeline.unet.add_adapter(LoraConfig(target_modules=targets, use_dora=self.use_dora, **self.settings))
        if self.train_text_encoder:
            # Never DoRA: diffusers (0.42) loses its magnitudes when it loads a text encoder.
            pipeline.text_encoder.add_adapter(LoraConfig(target_modules=list(TEXT_TARGETS), **self.settings))
        # Gradients of half-precision weights cannot be unscaled.
        cast_training_params(self.models, dtype=torch.float32)
        return self

    @property
    def models(self) -> list[nn.Module]:
        return [self.pipeline.unet, *([self.pipeline.text_encoder] if self.train_text_encoder else [])]

    @property
    def _parts(self) -> dict[str, nn.Module]:
        return dict(zip(("unet", "text_encoder"), self.models, strict=False))

    def save_checkpoint(self, folder: Path) -> None:
        self.save(folder)

    def load_checkpoint(self, folder: Path) -> None:
        state = load_file(folder / LORA_FILE)
        for part, model in self._parts.items():
            trained = get_peft_model_state_dict(model)
            stored_names = [f"{part}.{name}" for name in _stored(trained)]
            saved = {name for name in state if name.startswith(f"{part}.")}
            if saved != set(stored_names):
                missing = counted(len(set(stored_names) - saved), "trained weight is", "trained weights are")
                unknown = counted(len(saved - set(stored_names)), "is", "are")
                raise InputError(
                    f"{folder / LORA_FILE} does not fit the {part}: {missing} missing, {unknown} unknown; resume with "
                    "the version and settings that wrote it, or choose a new output_dir"
                )
            set_peft_model_state_dict(model, {k: state[name] for k, name in zip(trained, stored_names, strict=True)})

    def save(self, folder: Path) -> None:
        layers = {k: _stored(get_peft_model_state_dict(m)) for k, m in self._parts.items()}
        # The metadata holds rank and alpha: without it other programs would guess the scale.
        metadata = {k: _listed(m.peft_config["default"].to_dict()) for k, m in self._parts.items()}
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=layers["unet"],
            text_encoder_lora_layers=layers.get("text_encoder"),
            unet_lora_adapter_metadata=metadata["unet"],
            text_encoder_lora_adapter_metadata=metadata.get("text_encoder"),
        )
        _sort_metadata(folder / LORA_FILE)

    def restore_frozen(self, base: BaseModel) -> None:
        """Nothing: no frozen part is saved."""

    def verify(self, folder: Path, base: BaseModel) -> float:
        fresh = base.load(self.pipeline.unet.dtype).to(self.pipeline.unet.device)
        fresh.load_lora_weights(folder, weight_name=LORA_FILE)
        if self.train_text_encoder:
            ids = torch.arange(8, device=fresh.text_encoder.device)[None]
            encoders = self.pipeline.text_encoder, fresh.text_encoder
            with evaluating(*encoders):
                pair = [encoder(ids).last_hidden_state for encoder in encoders]
            _require_close(*pair, folder)
        return _compare(self.pipeline.unet, fresh.unet, folder)


def _listed(settings: dict) -> dict:
    """PEFT's settings with sorted lists instead of sets, whose order differs from process to process."""
    return {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}


def _sort_metadata(path: Path) -> None:
    """Order the metadata of a safetensors file, which is written in any order: the same weights are the same bytes.

    Images, audits and scores know a model by the hash of this file.
    """
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    text = json.dumps({**header, "__metadata__": dict(sorted(header["__metadata__"].items()))}, separators=(",", ":"))
    text += " " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    with whole_file(path) as partial:
        partial.write_bytes(len(text).to_bytes(8, "little") + text.encode() + data[start:])


def _stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapters under diffusers' names; under PEFT's where diffusers has no names for some of the layers.

    It reads either kind, but loses weights of a file that mixes them (seen in 0.42 with convolutions).
    """
    named = convert_state_dict_to_diffusers(state)
    return state if any(".lora_A." in name for name in named) else named


def _compare(trained: UNet2DConditionModel, saved: UNet2DConditionModel, folder: Path) -> float:
    """Largest difference of two UNets on one random input, relative to the output; an error if beyond rounding."""
    config = trained.config
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(1, config.in_channels, 16, 16, generator=rng)
    text = torch.randn(1, 8, config.cross_attention_dim, generator=rng)
    outputs = []
    with evaluating(trained, saved):
        for unet in (trained, saved):
            parts = [x.to(unet.device, unet.dtype) for x in (latents, text)]
            outputs.append(unet(parts[0], torch.tensor([500], device=unet.device), parts[1]).sample)
    return _require_close(*outputs, folder)


def _require_close(trained: torch.Tensor, saved: torch.Tensor, folder: Path) -> float:
    # Two orders of the same half-precision sums differ by rounding, a lost alpha or encoder by far more.
    tolerance = 1e-4 if saved.dtype == torch.float32 else 2e-2
    trained, saved = trained.float(), saved.float()
    if torch.equal(trained, saved):  # both may be zero, as those of a network that has not been trained
        return 0.0
    difference = float((trained - saved).abs().max() / trained.abs().max())
    if not difference <= tolerance:
        raise RuntimeError(
            f"the weights saved in {folder} do not give what the model in memory gives: outputs differ by "
            f"{difference:.2%}"
        )
    return difference
