"""Interleaved documents: pictures and text in turn, as a Flamingo reads them."""

from __future__ import annotations

from boda.data.render import Renderer


class FlamingoRenderer(Renderer):
    """Renders samples for a Flamingo, whose pictures are one token each."""
