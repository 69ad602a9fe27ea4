"""The page of the mathematical laboratory: the analytic classifier, its closed forms, and what they agree with."""
