"""Video lists, frame sampling, reading, crops and augmentation."""
