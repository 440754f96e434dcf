"""The pipeline round the stages: in, exactly-once engine, out, operation."""
