"""Files to batches: a folder, a zip, a list, packed records or TFDS goes in; batches in a fixed order come out.

Every batch is a function of its number, so a run can resume at any step. Other packages use `sources.open_source`,
`splits`, `records.pack`, and the two pipelines of `pipeline`.
"""
