"""Orders of a small shop: received, cleaned, added up. To run it: sluicegate run pipelines.py"""

import random
import time
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from sluicegate import Task, bronze, gold, silver

DAYS = 30


@bronze
def orders(task: Task):
    """What the shop sends each day, as it comes: here it is made up, the same each time.

    Every yield is a checkpoint, where a stop is heard; all of them appear in the table at once.
    """
    shop = random.Random(7)
    for day in range(DAYS):
        time.sleep(task.params.get("seconds_per_day", 0.05))
        yield [
            {
                "order_id": f"{day}-{number}",
                "day": (date(2024, 1, 1) + timedelta(day)).isoformat(),
                "item": shop.choice(["tea", "coffee", "cocoa", " Tea"]),
                "cups": shop.choice([1, 1, 2, 3, 0]),
            }
            for number in range(200)
        ]
        task.progress(day + 1, DAYS, "days")


@silver
def clean_orders(orders: pa.Table) -> pa.Table:
    """Only real orders, one spelling for each item. Inputs are found by name, one layer below."""
    real = orders.filter(pc.greater(orders["cups"], 0))
    item = pc.utf8_lower(pc.utf8_trim_whitespace(real["item"]))
    return real.set_column(real.schema.get_field_index("item"), "item", item)


@gold
def cups_by_item(clean_orders: pa.Table) -> pa.Table:
    """How much of what was sold."""
    sums = clean_orders.group_by("item").aggregate([("cups", "sum"), ("order_id", "count")])
    return sums.rename_columns(["item", "cups", "orders"]).sort_by([("cups", "descending")])
