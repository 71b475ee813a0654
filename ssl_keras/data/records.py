"""Examples in a folder of TensorFlow Datasets, in ArrayRecord files: written shard by shard, and read by index.

An example is a `tf.train.Example`. Each shard is written under a temporary name and renamed, in any order; the files
that describe the folder are written last, so a folder that opens is complete.

Nothing here imports TensorFlow, except `describe`. Do not fork a process that has opened a file: its threads would be
missing in the child.
"""

import errno
import json
import os
import pathlib

import numpy as np

from ssl_keras import files

NAME, VERSION = "curated", "1.0.0"
INFO, FEATURES = "dataset_info.json", "features.json"
COLUMNS = ("text", "image", "waveform", "caption", "label", "copies", "id")  # those that an example may have


def shard_name(split, number, count):
    """Returns the file name of a shard, as TensorFlow Datasets names it."""
    return f"{NAME}-{split}.array_record-{number:05}-of-{count:05}"


def serialize(example):
    """Returns the bytes of an example {name: bytes or int}, equal for equal examples."""
    from tensorflow_datasets.proto import tf_example_pb2

    made = tf_example_pb2.Example()
    for name, value in example.items():
        feature = made.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return made.SerializeToString(deterministic=True)


def parse(content):
    """Returns {name: bytes or int} of the bytes of an example."""
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(content).features.feature
    return {name: (each.bytes_list.value or each.int64_list.value or [b""])[0] for name, each in features.items()}


def write_shard(path, examples):
    """Writes serialized examples to an ArrayRecord file atomically, and returns their number.

    Raises:
        OSError: The file cannot be written, as on a full disk.
    """
    from array_record.python import array_record_module

    temporary, count = files.partial(path), 0
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        for content in examples:
            writer.write(content)
            count += 1
        writer.close()
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        reader = array_record_module.ArrayRecordReader(str(temporary))  # what a full disk has cut is not read
        if reader.num_records() != count:
            reason = f"Expected {count} examples after writing. Received: {reader.num_records()}"
            raise OSError(errno.EIO, reason, str(path))
        reader.close()
        os.replace(temporary, path)
    except (RuntimeError, ValueError) as error:  # ArrayRecord's, which have the reason in their text
        number = next(
            (each for each in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if os.strerror(each) in str(error)), None
        )
        reason = os.strerror(number) if number else str(error).partition("\n")[0]
        raise OSError(number or errno.EIO, reason, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def describe(folder, columns, lengths, sizes, classes, description):
    """Writes the files by which TensorFlow Datasets opens a folder of shards.

    Args:
        columns: names of `COLUMNS`. lengths: {split: the number of examples of each shard}.
        sizes: {split: bytes of all shards}. classes: label names. description: a text.
    """
    import tensorflow_datasets as tfds

    kinds = {
        "text": tfds.features.Text(),
        "caption": tfds.features.Text(),
        "id": tfds.features.Text(),
        "copies": np.int64,
        "label": tfds.features.ClassLabel(names=list(classes)) if classes else np.int64,
        "image": tfds.features.Image(shape=(None, None, None)),
        "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
    }
    template = tfds.core.ShardedFileTemplate(
        data_dir=str(folder),
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        dataset_name=NAME,
        filetype_suffix="array_record",
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=tfds.features.FeaturesDict({name: kinds[name] for name in columns}),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths[split],
                num_bytes=sizes[split],
                filename_template=template.replace(split=split),
            )
            for split in lengths
        ],
        filename_template=template,
        description=description,
        check_data=False,  # it would read the folder with `as_dataset`, which ArrayRecord does not have
    )


class Records:
    """The examples of a split, addressed by index.

    Raises:
        ValueError: A file is missing, or is damaged.
    """

    def __init__(self, folder, split):
        from array_record.python import array_record_data_source

        folder = pathlib.Path(folder)
        info = json.loads((folder / INFO).read_text("utf-8"))
        lengths = {each["name"]: [int(n) for n in each["shardLengths"]] for each in info["splits"]}[split]
        paths = [folder / shard_name(split, number, len(lengths)) for number in range(len(lengths))]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise ValueError(f"{folder}: {len(missing)} files are missing: {', '.join(missing[:3])}. Curate it again.")
        try:
            self._source = array_record_data_source.ArrayRecordDataSource([str(path) for path in paths])
            count = len(self._source)
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"{folder} is damaged: {files.printable(error)[:200]}. Curate it again.") from error
        if count != sum(lengths):
            raise ValueError(
                f"{folder}: expected {sum(lengths)} examples of {split}. Received: {count}. Curate it again."
            )

    def __len__(self):
        return len(self._source)

    def __getitem__(self, rows):
        """Returns [{name: bytes or int}] of the examples at some indices."""
        return [parse(content) for content in self._source.__getitems__([int(row) for row in rows])]
