"""A small shop whose database changes all the time: what `headgate demo` shows."""
