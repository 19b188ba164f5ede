"""The smallest project: a table as it came, a clean one, and a sum of it."""

from sluicegate import bronze, gold, silver


@bronze
def orders():
    """Two deliveries. Each yield is a checkpoint; both appear in the table at once."""
    yield [{"item": " Tea", "cups": 2}, {"item": "coffee", "cups": 1}]
    yield [{"item": "tea", "cups": 3}, {"item": "cocoa", "cups": 0}]


silver.sql(
    "clean_orders",
    "select lower(trim(item)) as item, cups from bronze.orders where cups > 0",
)

gold.sql(
    "cups_by_item",
    "select item, sum(cups)::bigint as cups from silver.clean_orders group by item order by item",
)
