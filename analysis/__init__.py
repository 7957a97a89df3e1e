"""What features are worth: nearest neighbours, variances, probes, pictures and reports."""
