"""Train a denoising diffusion model in pixels from scratch, with or without classes.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/ddpm.py --config train_scripts/configs/ddpm_ham10000_64.yaml
"""

from dermgen.publish.after_training import train_and_finish


def main():
    train_and_finish("ddpm")


if __name__ == "__main__":
    main()
