"""Settings: `TrainConfig`, `DataConfig`, YAML and overrides, the tables of choices."""
