"""Classifiers of images that are smoothed with noise."""
