"""What crosses a topic or a wire: models, the tier ladder, the kinds. Imports nothing else of tierstream."""
