"""Train a denoising diffusion model in pixels from scratch, with or without classes.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/ddpm.py --config train_scripts/configs/ddpm_ham10000_64.yaml
"""

from dermgen.config import parse, user_errors
from dermgen.methods import ddpm


def main():
    with user_errors():
        ddpm.train(parse(ddpm.DdpmConfig))


if __name__ == "__main__":
    main()
