"""An agent that scores on a device, with the handler of a fused function, and sends what it found when it can."""
