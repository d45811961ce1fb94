"""Train a DCGAN or a conditional GAN from scratch.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/dcgan.py --config train_scripts/configs/dcgan_ham10000_64.yaml
"""

from dermgen.config import parse
from dermgen.job import user_errors
from dermgen.settings.dcgan import DcganConfig


def main():
    with user_errors():
        config = parse(DcganConfig)
        from dermgen.methods import dcgan
        from dermgen.publish.after_training import check_upload, finish

        check_upload(config)
        dcgan.train(config)
        finish(config)


if __name__ == "__main__":
    main()
