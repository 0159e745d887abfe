"""How a slot gets to its end, against any backend."""
