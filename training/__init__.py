"""MAE pretraining, fine-tuning, evaluation and prediction."""

import os

# OpenMP's threads wait actively by default: beside other work on the same cores a training step on a CPU then takes
# four times as long. Only has an effect before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
