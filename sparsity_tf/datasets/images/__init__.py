"""Data sets of images, and the way from images to batches."""
