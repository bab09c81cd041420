"""The ceiling of recognition: the linear probe on held-out real clips, and which classes it mixes up.

python benchmarks/probe.py --dataset data --cache runs/embeddings
"""

import argparse
from collections import Counter
from pathlib import Path

from common import print_command, print_table, real_embeddings, single_probe, single_sounds
from diffusers_soundctm.evaluation import fraction_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="data set with splits train and test and a column label")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps clips and embeddings")
    parser.add_argument("--train-clips", type=int, help="fit on the first so many training clips only (all)")
    args = parser.parse_args()

    test, test_labels, _ = real_embeddings(args.dataset, "test", args.cache)
    train, train_labels, _ = real_embeddings(args.dataset, "train", args.cache, args.train_clips)
    probe = single_probe(train, train_labels, args.cache)
    sets = {"train": single_sounds(train, train_labels), "test": single_sounds(test, test_labels)}

    print_command()
    rows = []
    for split, (embeddings, labels) in sets.items():
        hits = probe.recognized(embeddings, labels)
        low, high = fraction_interval(hits)
        top_3 = probe.recognized(embeddings, labels, k=3).mean()
        rows.append((split, len(hits), f"{hits.mean():.1%} [{low:.1%}, {high:.1%}]", f"{top_3:.1%}"))
    print_table(["real clips", "n", "recognized", "in top 3"], rows)

    embeddings, labels = sets["test"]
    predicted = probe.predict(embeddings)[:, 0]
    rows = []
    for name in probe.classes:
        heard = predicted[labels == name]
        mistaken = Counter(heard[heard != name]).most_common(3)
        rows.append(((heard == name).mean(), name, len(heard), ", ".join(f"{other} {n}" for other, n in mistaken)))
    print("\nHeld-out clips by class, least recognized first:\n")
    print_table(["class", "n", "recognized", "taken for"], [(r[1], r[2], f"{r[0]:.0%}", r[3]) for r in sorted(rows)])


if __name__ == "__main__":
    main()
