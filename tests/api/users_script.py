"""A user's script, which `make types` reads as the user's own type checker would: it is not run."""

import phfcli as phf

run: phf.Run = phf.train(model="embedded", objective="phf", steps=20, config={"optim.lr": 1e-5})
scores = phf.evaluate(run, bench=["embedded"], n=12)
difference = phf.compare({"a": run, "b": "runs/b"})
report = phf.diagnose(run)
share: float = report.largest[1] + scores.average
for metrics in phf.training("qwen3-4b"):
    loss = metrics["loss"]
run.metrics.to_pandas().describe()
figure = report.plot()
figure.savefig("layers.png")
phf.train(stepz=3)  # type: ignore[call-arg]  # an argument that is no setting is an error of types
