"""Generating images: what is requested, which model makes it, and the folder in which it is kept."""
