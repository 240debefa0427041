"""From a finished run to files that are used elsewhere, each proven equal to the student."""
