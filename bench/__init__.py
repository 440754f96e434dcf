"""The benchmark: tierstream and its peers do the same work on the same broker, one after another."""
