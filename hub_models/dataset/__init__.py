"""The rows of the set: splits, audit, synthetic X-rays, preprocessing and augmentation."""
