"""The tasks that come with anchorbench, one file a task or a close family; importing the package registers them."""

from . import composite, identity  # noqa: F401 - imported to register
