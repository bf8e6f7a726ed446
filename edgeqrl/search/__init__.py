"""Choosing a scheme by the return, under a board's budget."""

from edgeqrl.search.options import SearchOptions as SearchOptions
from edgeqrl.search.options import StudyOptions as StudyOptions
