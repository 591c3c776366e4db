"""How the hidden states of teacher and student move, layer by layer: python examples/hidden_states.py [RUN]"""

import sys

import phfcli as phf
from phfcli.losses import layer_energies

if __name__ == "__main__":
    run = phf.load_run(sys.argv[1]) if sys.argv[1:] else phf.train(model="embedded", steps=5)
    last = sorted((run.folder / "flows").glob("step-*.safetensors"))[-1]
    flow = phf.load_flow(last)
    student, teacher = flow.student.float(), flow.teacher.float()  # [layers, rollouts, positions, width]
    print("energy of the directions, by layer:", layer_energies(student, teacher, flow.valid, "direction").tolist())
    phf.diagnose(run).plot().savefig("layers.png")
