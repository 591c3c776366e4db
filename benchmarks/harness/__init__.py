"""What the programs of this folder share: models and rollouts, measured processes, tables of figures."""
