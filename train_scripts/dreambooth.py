"""Fine-tune a Stable Diffusion on new lesions by DreamBooth: all weights.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/dreambooth.py --config train_scripts/configs/dreambooth_sd15.yaml
"""

from dermgen.publish.after_training import train_and_finish


def main():
    train_and_finish("dreambooth")


if __name__ == "__main__":
    main()
