"""What an explanation is: its scores, the raw inputs that they belong to, and its receipt."""
