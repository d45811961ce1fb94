"""Train a StyleGAN2 from scratch: logistic loss with adaptive augmentation, or WGAN-GP.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/stylegan2.py --config train_scripts/configs/stylegan2_ham10000_128.yaml
"""

from dermgen.publish.after_training import train_and_finish


def main():
    train_and_finish("stylegan2")


if __name__ == "__main__":
    main()
