"""A distribution of one model folder, apart from rehead's own so that this stays small; rehead finds it by its name.

Build it inside a checkout: `pip install ./deploy/multilingual`.
"""

from setuptools import setup

setup(packages=["rehead_multilingual"], package_dir={"rehead_multilingual": "../../models"})
