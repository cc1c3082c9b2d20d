"""Built models kept by content, where builds push them and apps pull them: an OCI image layout in a folder or in S3."""
