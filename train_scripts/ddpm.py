"""Train a denoising diffusion model in pixels from scratch, with or without classes.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/ddpm.py --config train_scripts/configs/ddpm_ham10000_64.yaml
"""

from dermgen.config import parse
from dermgen.job import user_errors
from dermgen.settings.ddpm import DdpmConfig


def main():
    with user_errors():
        config = parse(DdpmConfig)
        from dermgen.methods import ddpm
        from dermgen.publish.after_training import check_upload, finish

        check_upload(config)
        ddpm.train(config)
        finish(config)


if __name__ == "__main__":
    main()
