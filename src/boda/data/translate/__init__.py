"""Texts of other languages made Korean: engines, what must survive them, quality filters, jobs that can be killed."""
