"""How tierstream is deployed, and how that is tried."""
