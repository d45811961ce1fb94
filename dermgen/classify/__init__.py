"""Classifiers of lesions, and the study of what synthetic images do for them."""
