"""Models assembled from parts, in classes that stock transformers loads."""
