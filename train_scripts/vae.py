"""Train a variational autoencoder from scratch, convolutional or dense, with or without classes.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/vae.py --config train_scripts/configs/vae_ham10000_64.yaml
"""

from dermgen.config import parse
from dermgen.job import user_errors
from dermgen.settings.vae import VaeConfig


def main():
    with user_errors():
        config = parse(VaeConfig)
        from dermgen.methods import vae
        from dermgen.publish.after_training import check_upload, finish

        check_upload(config)
        vae.train(config)
        finish(config)


if __name__ == "__main__":
    main()
