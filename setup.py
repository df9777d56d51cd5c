"""Packages of the distribution; everything else is in pyproject.toml.

In a wheel the models that ship lie inside the package `finetune`; a checkout reads them from models/.
"""

from setuptools import find_packages, setup

setup(
    py_modules=["rehead"],
    packages=[*find_packages(include=["finetune*", "service*"]), "finetune.shipped"],
    package_dir={"finetune.shipped": "models"},
)
