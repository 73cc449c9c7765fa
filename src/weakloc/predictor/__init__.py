"""Images in, predictions out: the stage where tensors become arrays."""
