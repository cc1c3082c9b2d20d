"""The emulator of AWS, and the services that it lacks."""
