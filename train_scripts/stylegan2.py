"""Train a StyleGAN2 from scratch: logistic loss with adaptive augmentation, or WGAN-GP.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/stylegan2.py --config train_scripts/configs/stylegan2_ham10000_128.yaml
"""

from dermgen.config import parse, user_errors
from dermgen.methods import stylegan2


def main():
    with user_errors():
        stylegan2.train(parse(stylegan2.Stylegan2Config))


if __name__ == "__main__":
    main()
