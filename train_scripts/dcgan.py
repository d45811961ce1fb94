"""Train a DCGAN or a conditional GAN from scratch.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/dcgan.py --config train_scripts/configs/dcgan_ham10000_64.yaml
"""

from dermgen.publish.after_training import train_and_finish


def main():
    train_and_finish("dcgan")


if __name__ == "__main__":
    main()
