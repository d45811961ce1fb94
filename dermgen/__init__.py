"""Fine-tune, sample, score and publish generative models of skin-lesion images."""

__version__ = "0.1.0"
