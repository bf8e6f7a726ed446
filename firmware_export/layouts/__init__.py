"""The exported folder as a library of the tools that people use: metadata and examples around the sources."""

from firmware_export.layouts.library import library_files

__all__ = ["library_files"]
