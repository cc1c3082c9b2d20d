"""Takes items from a folder that is watched, and from a topic of MQTT."""
