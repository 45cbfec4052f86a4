"""One training loop for float and quantized networks.

    python -m dbq.training resnet20-cifar10-dbq-2t --profile smoke     # seconds on 2 CPU cores
    python -m dbq.training resnet20-cifar10-dbq-2t --profile cifar10   # 10 epochs of about 150 s on 2 CPU cores

A killed run goes on from its last finished epoch when the same command is given again.
"""
