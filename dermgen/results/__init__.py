"""Results of the stages: one class per kind of result folder, which alone knows the keys of its JSON file."""
