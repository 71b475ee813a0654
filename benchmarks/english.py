"""A small English encoder, made of a public sentence encoder, next to one of masked words on the same text.

    make minilm                                                              # runs/minilm, MiniLM's weights
    python benchmarks/english.py corpus wordnet.txt --questions 30000        # english.jsonl, 15 MB
    python benchmarks/english.py student runs/student                        # two of its blocks, 7,500 word pieces
    ssl-keras pretrain distillation $SAME --teacher runs/minilm --init runs/student --loss components \
        --batch-size 256 --epochs 6 --learning-rate 5e-4 --warmup 200 --run english
    ssl-keras export runs/english --float16 --out saved_models/english
    ssl-keras pretrain masked_lm $SAME --tokenizer saved_models/english/tokenizer.json --length 64 --batch-size 64 \
        --epochs 2 --run english-masked
    python benchmarks/english.py agreement SMSSpamCollection saved_models/english runs/english-masked

with SAME="--data table:english.jsonl --architecture bert --layers 2 --heads 12 --width 384 --context 128 --precision
mixed_bfloat16". On 2 cores the teacher's features take half an hour, and distillation an hour.

corpus: the lines of WordNet (`wordnet.txt`: its definitions and example sentences, one per line) and the paragraphs of
Python's help topics, without repetitions. `--questions` adds questions, each an opening and the first words of a line,
since a dictionary has none.

student: a copy of some blocks of the teacher, and of the embeddings of its most frequent word pieces in the corpus. The
first and the last block were chosen among three pairs, by the loss after 96 steps: 0.277, 0.418 for blocks 1 and 4, and
0.454 for 0 and 1.

agreement: Spearman's correlation of the cosines of two encoders, the teacher and another one, over 5,000 pairs of
texts of SMS Spam and TREC, which are not in the corpus. Half of the pairs are random; of the others, the second text
is the one that is nearest to the first by TF-IDF. Next to them, the cosines of TF-IDF, and of the mean of the teacher's
own word vectors. The numbers are written to english.json.

The tables of labels are those of `few_texts.py`.
"""

import argparse
import json
import os
import pathlib
import re
import tempfile
from collections import Counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from ssl_keras.startup import start_tensorflow

start_tensorflow()

from pydoc_data.topics import topics

import keras
import numpy as np
from scipy import stats

from ssl_keras import encoders, files
from ssl_keras.data.sources import load
from ssl_keras.data.tokenizer import load as load_tokenizer
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import save_encoder
from ssl_keras.evaluation.features import normalize, tf_idf
from ssl_keras.inference.search import TextRetriever
from ssl_keras.networks import Network

OUT = pathlib.Path(__file__).with_suffix(".json")
PAIRS, PARAGRAPH = 5_000, 20  # pairs of texts, and the fewest characters of a paragraph
LONGEST = 400  # characters of a paragraph that are used
CONTEXT = 128  # tokens that a student reads at most
PHRASE = 8  # the most words of a phrase in a question that is made
OPENINGS = (
    *("who is", "who was", "who are", "who wrote", "who invented", "who made", "who says", "whose", "whom did"),
    *("what is", "what are", "what was", "what does", "what did", "what kind of", "what is the name of", "what causes"),
    *("what is the meaning of", "what is the difference between", "what happened to", "what do you call", "what year"),
    *("where is", "where are", "where was", "where do", "where can I find", "where did", "in which country is"),
    *(
        "when is",
        "when was",
        "when did",
        "when do",
        "when will",
        "since when",
        "why is",
        "why are",
        "why do",
        "why did",
    ),
    *("how is", "how are", "how do", "how does", "how did", "how can I", "how many", "how much", "how much is"),
    *("how long", "how far is", "how old is", "how big is", "how often", "how fast", "which", "which is the best"),
    *("is there", "are there", "can you", "do you have", "did you see", "will you", "is it", "does it"),
)


def write_corpus(wordnet, questions):
    """Writes english.jsonl, with a number of questions that are made."""
    lines = [line.strip() for line in pathlib.Path(wordnet).read_text("utf-8").splitlines()]
    for _, topic in sorted(topics.items()):
        paragraphs = (" ".join(each.split()) for each in re.split(r"\n\s*\n", topic))
        lines += [each[:LONGEST] for each in paragraphs if len(each) >= PARAGRAPH]
    lines += made_questions([line for line in lines if len(line.split()) > 1], questions)
    lines = list(dict.fromkeys(filter(None, lines)))
    files.write("english.jsonl", "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines))
    print(f"english.jsonl: {len(lines):,} texts, {sum(map(len, lines)):,} characters")


def made_questions(lines, count):
    """Returns questions, which a dictionary has none of: an opening, and the first words of a line."""
    random, made = np.random.default_rng(0), []
    for row in random.permutation(len(lines))[:count]:
        opening, words = OPENINGS[random.integers(len(OPENINGS))], random.integers(1, PHRASE + 1)
        phrase = lines[row].split(": ")[-1].split()[:words]  # without the word that is defined
        made.append(f"{opening} {' '.join(phrase).rstrip(',;.')}?".capitalize())
    return made


def write_student(teacher, out, kept, vocabulary):
    """Saves a smaller copy of the teacher: some of its blocks, and its most frequent word pieces in english.jsonl.

    Letters, digits and signs stay, so that words of other pieces can be spelled.
    """
    card, tokenizer = cards.read(encoders.find(teacher)), encoders.load_tokenizer(teacher)
    lines = pathlib.Path("english.jsonl").read_text("utf-8").splitlines()
    counts = Counter(id for ids in tokenizer.encode([json.loads(line)["text"] for line in lines]) for id in ids)
    pieces = tokenizer.backend.get_vocab()
    for piece, id in pieces.items():
        if piece in tokenizer.special or len(piece.removeprefix("##")) == 1 and piece.isascii():
            counts[id] = len(lines) * LONGEST
    rows = sorted(id for id, _ in counts.most_common(vocabulary))
    names = {id: piece for piece, id in pieces.items()}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "vocab.txt").write_text("".join(f"{names[row]}\n" for row in rows), "utf-8")
        smaller = load_tokenizer(folder)
    keywords = cards.network(card).keywords | {"layers": len(kept), "vocabulary": len(rows), "context": CONTEXT}
    student = Network("transformer", **keywords).build()
    weights = {each.path: each.numpy() for each in encoders.load_encoder(teacher).weights}
    for variable in student.weights:
        block = re.match(r"block_(\d+)", variable.path)
        value = weights[variable.path.replace(block[0], f"block_{kept[int(block[1])]}") if block else variable.path]
        value = value[rows] if variable.path == "embeddings/tokens" else value
        variable.assign(value[: variable.shape[0]])
    save_encoder(out, student, spec={"tokens": ((None,), np.int32)}, tokenizer=smaller)
    print(f"{out}: {student.count_params():,} weights, {len(rows):,} word pieces")


def draw_pairs(texts):
    """Returns (texts without repetitions, int (PAIRS, 2)): half are random, half nearest by TF-IDF."""
    texts = list(dict.fromkeys(texts))
    random, vectors = np.random.default_rng(0), tf_idf(texts)[0]
    first = random.permutation(len(texts))[: PAIRS // 2]
    similarity = (vectors[first] @ vectors.T).toarray()
    similarity[np.arange(len(first)), first] = -1
    near = np.stack([first, similarity.argmax(1)], axis=1)
    return texts, np.concatenate([near, random.integers(0, len(texts), (PAIRS - len(near), 2))])


def word_vectors(name, texts):
    """Returns the mean of a transformer's own token vectors, (N, D)."""
    table = encoders.load_encoder(name).get_layer("embeddings").get_weights()[0]
    encoded = encoders.load_tokenizer(name).encode(texts, special=False)
    return np.stack([table[ids].mean(0) if len(ids) else np.zeros(table.shape[1]) for ids in encoded])


def measure_agreement(sms, names, teacher):
    """Prints, and writes to english.json, the correlation with the teacher's cosines."""
    parts = [*load(f"table:{sms}"), *load("tfds:trec")]
    texts, pairs = draw_pairs([text for part in parts for text in part.column("text")])
    print(f"{len(pairs):,} pairs of {len(texts):,} texts")

    def cosines(vectors):
        if hasattr(vectors, "multiply"):  # sparse
            return np.asarray(vectors[pairs[:, 0]].multiply(vectors[pairs[:, 1]]).sum(1)).ravel()
        vectors = normalize(vectors)
        return (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1)

    wanted = cosines(TextRetriever(teacher).of_texts(texts))
    results = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    rows = {"TF-IDF": lambda: tf_idf(texts)[0], "the teacher's word vectors": lambda: word_vectors(teacher, texts)}
    rows |= {pathlib.Path(name).name: lambda name=name: TextRetriever(name).of_texts(texts) for name in names}
    for row, embed in rows.items():
        found, half = cosines(embed()), PAIRS // 2
        agreement = {"all": slice(None), "near": slice(half), "random": slice(half, None)}
        results.setdefault("agreement", {})[row] = {
            part: round(float(stats.spearmanr(found[where], wanted[where])[0]), 4) for part, where in agreement.items()
        }
        print(row, results["agreement"][row], flush=True)
        files.write_json(OUT, results)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    corpus = commands.add_parser("corpus")
    corpus.add_argument("wordnet")
    corpus.add_argument("--questions", type=int, default=0, help="number of questions to make and add")
    student = commands.add_parser("student")
    student.add_argument("out")
    student.add_argument("--teacher", default="runs/minilm")
    student.add_argument("--blocks", type=int, nargs="+", default=[0, 5], help="blocks of the teacher to keep")
    student.add_argument("--vocabulary", type=int, default=7500, help="number of word pieces to keep")
    agreement = commands.add_parser("agreement")
    agreement.add_argument("sms")
    agreement.add_argument("encoders", nargs="*")
    agreement.add_argument("--teacher", default="runs/minilm")
    asked = parser.parse_args()
    keras.utils.set_random_seed(0)
    if asked.command == "corpus":
        write_corpus(asked.wordnet, asked.questions)
    elif asked.command == "student":
        write_student(asked.teacher, asked.out, asked.blocks, asked.vocabulary)
    else:
        measure_agreement(asked.sms, asked.encoders, asked.teacher)


if __name__ == "__main__":
    main()
