"""Real processes under faults: what was asked is answered once, whatever happens to the others."""
