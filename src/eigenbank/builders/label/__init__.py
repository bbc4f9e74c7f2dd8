"""Naming directions by what they do to images."""
