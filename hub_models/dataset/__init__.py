"""Rows of the set: splits, audit, synthetic X-rays, preprocessing, batches and augmentation."""
