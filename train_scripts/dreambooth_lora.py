"""Fine-tune a Stable Diffusion on new lesions by DreamBooth: LoRA adapters.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/dreambooth_lora.py --config train_scripts/configs/dreambooth_lora_sd15.yaml
"""

from dermgen.publish.after_training import train_and_finish


def main():
    train_and_finish("dreambooth_lora")


if __name__ == "__main__":
    main()
