"""Train a lesion classifier (ViT, ResNet50, or a small ViT from scratch) on real images, or real and synthetic ones.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/classifier.py --config train_scripts/configs/classifier_vit.yaml
"""

from dermgen.publish.after_training import train_and_finish


def main():
    train_and_finish("classifier")


if __name__ == "__main__":
    main()
