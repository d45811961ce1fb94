"""What a synthetic set is worth: scores, copies of training images, quality filter."""
