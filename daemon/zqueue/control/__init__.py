"""The control socket: its messages, its server, its client, and where it is."""
