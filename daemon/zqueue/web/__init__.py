"""What zqueued shows over HTTP, to look and not to steer: metrics, health, the status page, JSON.

``service`` listens where the config says, ``server`` speaks HTTP, ``routes`` knows which path gives
what, ``looks`` asks the queues, and ``metrics``, ``health`` and ``page`` show what they answered.
"""
