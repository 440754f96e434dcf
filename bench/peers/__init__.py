"""The same job in other engines, each a program of its own: read ``team.events``, decide, write ``audit.events`` and ``tier.current``."""
