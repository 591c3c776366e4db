"""What the privileged context does, before any training: `phf probe`.

`experiment` loads the model and settles what is drawn, and tells the cost; `answers` draws and grades; `token_readings`
reads the student's own rollouts under each context; `context_findings` sums them up; `verdict` judges by stated rules.
"""
