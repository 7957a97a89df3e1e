"""What surrounds the steps of a run: flags, set-up, session, logs, precision, evaluation. Imported by entry scripts."""
