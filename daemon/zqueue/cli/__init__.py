"""The two commands, ``zqueued`` and ``zqueuectl``."""
