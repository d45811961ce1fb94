"""Train a DCGAN or a conditional GAN from scratch.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/dcgan.py --config train_scripts/configs/dcgan_ham10000_64.yaml
"""

from dermgen.config import parse, user_errors
from dermgen.methods import dcgan


def main():
    with user_errors():
        dcgan.train(parse(dcgan.DcganConfig))


if __name__ == "__main__":
    main()
