"""Train a lesion classifier (ViT, ResNet50, or a small ViT from scratch) on real images, or real and synthetic ones.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/classifier.py --config train_scripts/configs/classifier_vit.yaml
"""

from dermgen.publish.after_training import train_and_finish


def report(config, result):
    test = result.test
    figures = f"BMA {test['bma']:.3f}, accuracy {test['accuracy']:.3f}, n {test['n']}"
    print(f"test split: {figures}; all figures in {config.output_dir}/results.json")


def main():
    train_and_finish("classifier", report)


if __name__ == "__main__":
    main()
