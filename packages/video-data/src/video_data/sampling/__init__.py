"""Which samples come in which order, and which frames and part of the picture make a clip."""
