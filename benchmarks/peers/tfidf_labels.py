# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# scikit-learn lives in the environment that `benchmarks.understand` makes, not in ours.
"""Labels of texts by TF-IDF and a linear model for each label.

    uv run --no-project --with scikit-learn python benchmarks/peers/tfidf_labels.py < ask.json

`ask.json`: `learn` (texts), `labels` (a list of labels for each), `ask` (texts), `several`. The
answer on stdout is the list of labels for each text asked, likeliest first. Words and pairs of
words, sublinear counts. One label a text: a support vector machine. Several: logistic regression
with weighted classes (unweighted, hardly any label reaches 0.5), and all labels of probability 0.5
and more, or the likeliest.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.svm import LinearSVC


def main() -> None:
    """Read, learn, answer."""
    given = json.load(sys.stdin)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=50_000)
    learned = words.fit_transform(given["learn"])
    asked = words.transform(given["ask"])
    if given["several"]:
        binary = MultiLabelBinarizer()
        truth = binary.fit_transform(given["labels"])
        model = OneVsRestClassifier(
            LogisticRegression(C=10, max_iter=1000, class_weight="balanced")
        ).fit(learned, truth)
        scores, names = model.predict_proba(asked), binary.classes_
        answer = [
            [str(names[at]) for at in np.argsort(-row) if row[at] >= 0.5]
            or [str(names[int(row.argmax())])]
            for row in scores
        ]
    else:
        first = [labels[0] for labels in given["labels"]]
        # one linear machine a label: a joint regression of a thousand labels took 13 GB
        model = LinearSVC().fit(learned, first)
        answer = [[str(label)] for label in model.predict(asked)]
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
