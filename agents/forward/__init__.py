"""Forward: each audit event becomes at most one mail at Loops."""
