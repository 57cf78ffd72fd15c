"""From token stores to batches.

    store          shards of blocks of documents, lengths beside them            modernbert_train/store
      |
    order.py       blocks of one source, epoch after epoch, for each canonical node
      |
    mixture.py     share of each source in the tokens of a phase
      |
    plan.py        which documents make up shuffle block b of sequence s         reads lengths only
      |              packing.py    documents -> pieces -> rows
      |
    reader.py      tokens of a shuffle block -> rows with targets                objectives.py, skip.py
      |
    loader.py      rows of all streams of a rank, step by step, in worker processes
      |
    sharing.py     what each rank does of a batch
      |
    batch.py       rows -> PackedBatch -> micro-batches for the model

inputs.py opens what a recipe names: its tokenizer, its stores and their reader.

Every row follows from (manifests, mixture, seed, phase, context length, row length) alone: the number of ranks and
workers does not matter, and resuming costs the same at any step.

Glossary, from large to small:

    source          a named collection of documents; a mixture gives each source a share of the tokens
    split           the training or the held-out part of a source
    shard           a file of a split
    block           a sample of a shard: some documents, stored together and always read together
    document        the unit of text; its content tokens exclude [CLS] and [SEP]

    epoch           one reading of all blocks of a source; epochs follow each other without a seam
    canonical node  one of the N equal parts that blocks are dealt to; N is fixed by the recipe, so that the data does
                    not depend on the number of machines, and each machine downloads only its own part
    stream          one of the C equal parts of every batch; each rank reads C/ranks of them, some one more
    sequence        an endless sequence of rows; a stream has its own or, from small sources, shares one with the others
    shuffle block   about `data.shuffle_rows` consecutive rows of a sequence, packed and shuffled together
    position        (shuffle block, row) of a stream; C positions are all that a checkpoint holds of the data

    row             `row_tokens` slots, filled with whole pieces and some padding
    slot            place of one token in a row
    piece           a document, or the part of a long document that fits the context: [CLS] content [SEP]
    segment         a stretch of a row that attends to itself only: a piece, or padding
    target          a slot with a label: a masked token (mlm), or each token but the last of its piece (clm)

    batch           the rows of a step: equally many from every stream
    micro-batch     the rows of one forward and backward pass of a rank, joined into one sequence;
                    filled up with rows of padding where ranks have fewer rows than others
"""
