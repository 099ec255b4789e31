"""What every package uses: errors, settings, files, locks, the run folder, prediction tables, the metric."""
