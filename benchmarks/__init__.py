"""zqueued measured side by side with libzmq's and pyzmq's own queue devices; see README.md."""
