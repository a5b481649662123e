"""Launchers and the sweeper that Hydra finds by this namespace; libraries behind them are imported at a launch."""
