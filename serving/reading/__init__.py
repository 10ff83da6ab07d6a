"""From the files of a request (DICOM, PNG, TIFF) to tensors, in a locked process."""
