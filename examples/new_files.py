"""Files that arrive one by one: each is read exactly once, whenever the job runs.

Put files such as `readings/monday.csv` into the landing zone (`.sluicegate/landing` unless set) and
run it as often as you like: a second run reads only what is new. Files are known by their path.
"""

import pyarrow as pa
import pyarrow.compute as pc

from sluicegate import bronze, gold

COLUMNS = pa.schema([("sensor", pa.string()), ("celsius", pa.float64())])


@bronze(files="readings/*.csv")
def readings(batch: pa.Table) -> pa.Table:
    """One file's rows; the types are ours, not guessed anew for each file."""
    return batch.select(COLUMNS.names).cast(COLUMNS)


@gold
def warmest(readings: pa.Table) -> pa.Table:
    """The highest reading of each sensor. An input is found by name, in the nearest layer below."""
    known = readings.filter(pc.is_valid(readings["celsius"]))
    highest = known.group_by("sensor").aggregate([("celsius", "max")])
    return highest.rename_columns(["sensor", "celsius"]).sort_by("sensor")
