"""What a notification says, as text; how a medium marks it up is the destination's business."""

__all__ = ["masking", "text"]
