"""Disk to batches: readers, images, transforms, loaders, and the stand-in scenes."""
