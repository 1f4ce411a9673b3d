"""Everything that SQLAlchemy can tell of a database, over the dialect and driver that the argument names."""

import os
import sys
import warnings

import sqlalchemy as sa

warnings.simplefilter("ignore")


def reflect(connection):
    inspector = sa.inspect(connection)
    print("== schemas")
    print(inspector.get_schema_names(), inspector.default_schema_name)
    for schema in inspector.get_schema_names():
        for kind in ("get_table_names", "get_view_names", "get_materialized_view_names", "get_sequence_names",
                     "get_temp_table_names"):
            print(f"== {schema} {kind}")
            print(getattr(inspector, kind)(**({} if "temp" in kind else {"schema": schema})))
        for kind in ("get_multi_columns", "get_multi_pk_constraint", "get_multi_foreign_keys", "get_multi_indexes",
                     "get_multi_unique_constraints", "get_multi_check_constraints", "get_multi_table_comment",
                     "get_multi_table_options"):
            print(f"== {schema} {kind}")
            try:
                found = getattr(inspector, kind)(schema=schema, kind=sa.engine.reflection.ObjectKind.ANY,
                                                 scope=sa.engine.reflection.ObjectScope.ANY)
                for table in sorted(found, key=str):
                    print(table, found[table])
            except Exception as error:
                print("error:", type(error).__name__, str(error).partition("\n")[0])
        for kind in ("get_enums", "get_domains"):
            print(f"== {schema} {kind}")
            print(getattr(inspector, kind)(schema=schema))
        print(f"== {schema} views")
        for view in sorted(inspector.get_view_names(schema=schema)):
            print(view, inspector.get_view_definition(view, schema=schema))
    print("== metadata")
    metadata = sa.MetaData()
    try:
        metadata.reflect(connection, schema="public", views=True, resolve_fks=False)
    except Exception as error:
        print("error:", type(error).__name__, str(error).partition("\n")[0])
    for table in sorted(metadata.tables):
        print(table, len(metadata.tables[table].columns))


url = sa.URL.create(sys.argv[1], os.environ["PGUSER"], os.environ["PGPASSWORD"], os.environ["PGHOST"],
                    int(os.environ["PGPORT"]), os.environ["PGDATABASE"])
if "asyncpg" in sys.argv[1]:
    import asyncio
    from sqlalchemy.ext.asyncio import create_async_engine

    async def main():
        async with create_async_engine(url).connect() as connection:
            await connection.run_sync(reflect)

    asyncio.run(main())
else:
    with sa.create_engine(url).connect() as connection:
        reflect(connection)
