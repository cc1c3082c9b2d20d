"""Installs, starts and rolls back versions of the package on a machine without Greengrass."""
