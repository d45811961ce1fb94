"""Train a lesion classifier (ViT, ResNet50, or a small ViT from scratch) on real images, or real and synthetic ones.

    accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \
        train_scripts/classifier.py --config train_scripts/configs/classifier_vit.yaml
"""

from dermgen.config import parse
from dermgen.job import user_errors
from dermgen.settings.classifier import ClassifierConfig


def main():
    with user_errors():
        config = parse(ClassifierConfig)
        from dermgen.classify import classifier
        from dermgen.publish.after_training import check_upload, finish

        check_upload(config, draws=False)
        test = classifier.train(config).test
        figures = f"BMA {test['bma']:.3f}, accuracy {test['accuracy']:.3f}, n {test['n']}"
        print(f"test split: {figures}; all figures in {config.output_dir}/results.json")
        finish(config)


if __name__ == "__main__":
    main()
