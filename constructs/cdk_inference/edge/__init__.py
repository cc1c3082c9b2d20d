"""Devices: a route as a component of AWS IoT Greengrass, or as a service of systemd, with the cloud behind it."""
