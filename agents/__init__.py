"""The stages, a package each: ``decide`` is pure, ``stage`` is thin. ``registry`` says which parts make a stage."""
