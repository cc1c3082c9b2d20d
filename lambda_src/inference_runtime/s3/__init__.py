"""A small S3 client that imports faster than an SDK."""
