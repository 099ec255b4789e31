"""What every package uses: errors, settings, files, locks, the run folder, prediction tables, the metric."""

from common import interrupts

if interrupts.is_command():
    from common import environment

    environment.pin_command()  # before anything that reads the environment is imported
