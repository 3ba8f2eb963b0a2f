"""``zqueuectl top``: the queues and their workers, live in a terminal."""
