"""Train a variational autoencoder from scratch, convolutional or dense, with or without classes.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/vae.py --config train_scripts/configs/vae_ham10000_64.yaml
"""

from dermgen.config import parse, user_errors
from dermgen.methods import vae


def main():
    with user_errors():
        vae.train(parse(vae.VaeConfig))


if __name__ == "__main__":
    main()
