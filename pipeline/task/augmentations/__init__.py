"""Augmentations of training images; one file per augmentation."""
