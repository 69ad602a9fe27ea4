"""What the models of the zoo were trained on: scenes, crowds of items, and questions about them, drawn from a seed."""
