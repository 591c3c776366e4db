"""The health of a run: `health_charts` draws where the divergence lies, `rollout_view` shows rollouts on the report,
and `training_findings` is what trackers show of a run at a checkpoint."""
