"""Generating images: the request, the model, and the folder of the images."""
