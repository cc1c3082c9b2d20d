"""Run what ships for the architecture and the Python of the functions. Everything that runs here is emulation."""
