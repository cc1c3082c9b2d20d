"""Takes a route of a pipeline out of AWS: into a container image, with manifests for the platforms that run it."""
