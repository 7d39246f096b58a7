"""Train a softmax classifier on scikit-learn's bundled digits, logging every epoch.

The one line that hpctrack needs is ``hpctrack.log(...)``; everything else is an ordinary script.
"""

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import hpctrack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate")
    parser.add_argument("--alpha", type=float, default=1e-3, help="weight of the penalty")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--pause", type=float, default=0.2, help="seconds between epochs, to have something to watch"
    )
    args = parser.parse_args()
    hpctrack.set_args(vars(args))

    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.25, random_state=0)
    scaler = StandardScaler().fit(train_x)
    train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)

    model = SGDClassifier(
        loss="log_loss", learning_rate="constant", eta0=args.lr, alpha=args.alpha, random_state=0
    )
    for epoch in range(1, args.epochs + 1):
        order = np.random.default_rng(epoch).permutation(len(train_x))
        model.partial_fit(train_x[order], train_y[order], classes=np.arange(10))
        metrics = {
            "loss": log_loss(train_y, model.predict_proba(train_x)),
            "train/accuracy": model.score(train_x, train_y),
            "test/accuracy": model.score(test_x, test_y),
        }
        hpctrack.log(metrics, step=epoch, progress=epoch / args.epochs)
        print(
            f"epoch {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()),
            flush=True,
        )
        time.sleep(args.pause)


if __name__ == "__main__":
    main()
