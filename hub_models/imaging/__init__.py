"""X-rays and masks as images: read any file, window, resize, cut to the lungs, draw, write DICOM."""
