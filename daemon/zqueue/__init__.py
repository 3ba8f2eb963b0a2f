"""zqueue: the ZeroMQ queue device as a daemon that is steered and monitored."""

__version__ = "0.1.0"
