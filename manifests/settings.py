"""Files of settings, which people write by hand."""

import yaml

NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError)
"""What reading YAML raises; all but the first of dates, numbers and tags that there are not, such as 2024-02-30."""
