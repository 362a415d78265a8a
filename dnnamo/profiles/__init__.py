"""Native profile or trace file -> `Profile`. Nothing here imports a framework."""
