"""Train a CycleGAN: images of one class or device into those of another, and back.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/cyclegan.py --config train_scripts/configs/cyclegan_nevus_melanoma.yaml
"""

from dermgen.config import parse
from dermgen.job import user_errors
from dermgen.settings.cyclegan import CycleganConfig


def main():
    with user_errors():
        config = parse(CycleganConfig)
        from dermgen.methods import cyclegan
        from dermgen.publish.after_training import check_upload, finish

        check_upload(config)
        cyclegan.train(config)
        finish(config)


if __name__ == "__main__":
    main()
