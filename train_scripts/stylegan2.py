"""Train a StyleGAN2 from scratch: logistic loss with adaptive augmentation, or WGAN-GP.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/stylegan2.py --config train_scripts/configs/stylegan2_ham10000_128.yaml
"""

from dermgen.config import parse
from dermgen.job import user_errors
from dermgen.settings.stylegan2 import Stylegan2Config


def main():
    with user_errors():
        config = parse(Stylegan2Config)
        from dermgen.methods import stylegan2
        from dermgen.publish.after_training import check_upload, finish

        check_upload(config)
        stylegan2.train(config)
        finish(config)


if __name__ == "__main__":
    main()
