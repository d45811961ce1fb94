"""Train a variational autoencoder from scratch, convolutional or dense, with or without classes.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/vae.py --config train_scripts/configs/vae_ham10000_64.yaml
"""

from dermgen.publish.after_training import train_and_finish


def main():
    train_and_finish("vae")


if __name__ == "__main__":
    main()
