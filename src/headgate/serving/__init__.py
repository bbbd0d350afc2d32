"""What lives as long as a door is open: the server's processes, their config as it changes, and their end."""
