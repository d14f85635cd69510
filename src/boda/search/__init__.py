"""Pictures by words: an index that lies in a folder or behind an address, and answers in milliseconds."""

from boda.search.index import Hit, Index, contact_sheet

__all__ = ["Hit", "Index", "contact_sheet"]
