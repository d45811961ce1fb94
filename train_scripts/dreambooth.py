"""Teach a Stable Diffusion new lesions by DreamBooth: all weights.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/dreambooth.py --config train_scripts/configs/dreambooth_sd15.yaml
"""

from dermgen.config import parse
from dermgen.job import user_errors
from dermgen.settings.dreambooth import DreamboothConfig


def main():
    with user_errors():
        config = parse(DreamboothConfig)
        from dermgen.methods import dreambooth
        from dermgen.publish.after_training import check_upload, finish

        check_upload(config)
        dreambooth.train(config)
        finish(config)


if __name__ == "__main__":
    main()
