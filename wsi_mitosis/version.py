"""The version of the program, and of the algorithm behind its figures."""

__version__ = "0.1.0"

RESULT_VERSION = 2
"""Raised when the same input would give other figures; results under an older one are computed again."""

DETECTION_VERSION = 2
"""The same for candidates."""

ASSESSMENT_VERSION = 2
"""The same for assessments: raised when the same figures would give another one."""
