"""How answers are scored and how sure a score is."""
