"""Finds the packages, so that a new one cannot be left out of an install; `pyproject.toml` has everything else."""

from setuptools import find_packages, setup

# The shipped encoders lie beside the package in a checkout, and inside it once installed.
setup(packages=[*find_packages(include=["ssl_keras", "ssl_keras.*"]), "ssl_keras.saved_models"])
