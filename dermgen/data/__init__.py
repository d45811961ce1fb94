"""From files on disk to tensors: readers, the manifest, splits, preprocessing, captions, drawn lesions."""
