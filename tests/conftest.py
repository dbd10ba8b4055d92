"""What all tests share: Hypothesis gives no example a time of its own, which a busy machine would not keep."""

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
