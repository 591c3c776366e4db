"""What the samples of evaluations say beside their average: `sample_charts` draws pass@k and lengths."""
