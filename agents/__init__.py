"""One module a stage: a pure ``decide``, and what surrounds it. Imports ``schemas`` and ``streams``."""
