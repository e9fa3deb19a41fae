#!/usr/bin/env bash
# torch.distributed.checkpoint: asking a new Adam for its state changes the training that follows.
#
# Expected: get_optimizer_state_dict (and get_state_dict) only read. A run that stores a checkpoint before its first
#   step learns the same as one that does not.
# Seen: for an optimizer without state it sets gradients and rate to 0 and calls step(), and does not undo that. Adam
#   and AdamW then believe that one step is done: the first real one is 0.74 of the rate instead of 1, and the bias
#   correction is one step ahead for good. Where weight decay is part of the gradient (Adam, SGD with momentum) that
#   imaginary gradient stays in the moments. No warning; the documentation says nothing of it.
# Versions: torch 2.14.1, numpy 2.4.6, on one process and CPU.
# Output, how far the weights go in the first and in three steps:
#   Adam: 0.01000, 0.02980; after the question 0.00744, 0.02500
#   AdamW: 0.01002, 0.02986; after the question 0.00746, 0.02506
#   Adam, weight decay: 0.01000, 0.02980; after the question 0.00779, 0.02564
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.14.1 numpy==2.4.6
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

def moves(kind, ask, **options):
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 2)
    optimizer, start = kind(network.parameters(), 0.01, **options), network.weight.detach().clone()
    if ask:
        get_optimizer_state_dict(network, optimizer)
    x, ways = torch.randn(8, 4), []
    for _ in range(3):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        ways.append((network.weight - start).abs().mean().item())
    return ways

for name, kind, options in (("Adam", torch.optim.Adam, {}), ("AdamW", torch.optim.AdamW, {}),
                            ("Adam, weight decay", torch.optim.Adam, {"weight_decay": 0.1})):
    usual, asked = moves(kind, False, **options), moves(kind, True, **options)
    print(f"{name}: {usual[0]:.5f}, {usual[2]:.5f}; after the question {asked[0]:.5f}, {asked[2]:.5f}")
    assert asked[0] < 0.8 * usual[0] and asked[2] < 0.9 * usual[2], "the behaviour has changed"
PYTHON
