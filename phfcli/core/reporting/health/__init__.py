"""The health of a run on the report: `health_charts` draws where the divergence lies, `rollout_view` shows rollouts."""
