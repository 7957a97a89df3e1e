"""What features are worth: nearest neighbours, variances, probes, pictures and reports."""
import core  # noqa: F401  # before what takes seconds to import
