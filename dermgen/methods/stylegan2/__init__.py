"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), in plain PyTorch operations.

Two losses: the paper's, non-saturating logistic with lazy R1 and path-length regularisation, with the adaptive
augmentation of arXiv:2006.06676; and WGAN-GP with spectral normalisation and several critic updates.
"""

from dermgen.methods.stylegan2.generation import load_critic, load_generator
from dermgen.methods.stylegan2.training import build, train
from dermgen.settings.stylegan2 import Stylegan2Config

__all__ = ["Stylegan2Config", "build", "load_critic", "load_generator", "train"]
