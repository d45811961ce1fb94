"""What every training method shares: the run, its random draws, the losses."""
