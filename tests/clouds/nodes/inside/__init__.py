"""What runs as a node's first process: the standard library only, for it has no site-packages."""
