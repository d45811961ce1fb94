"""Train a CycleGAN: images of one class or device into those of another, and back.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/cyclegan.py --config train_scripts/configs/cyclegan_nevus_melanoma.yaml
"""

from dermgen.publish.after_training import train_and_finish


def main():
    train_and_finish("cyclegan")


if __name__ == "__main__":
    main()
