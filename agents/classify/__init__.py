"""Classify: a team's facts become its tier, and what changed."""
