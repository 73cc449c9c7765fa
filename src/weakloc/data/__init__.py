"""Disk to batches: readers, images, transforms, loaders."""
