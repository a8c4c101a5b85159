from reports.scores import Score

__all__ = ["Score"]
