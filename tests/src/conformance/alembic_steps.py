"""What a project with Alembic does: find what is missing, write the revision, upgrade, compare, change, downgrade."""

import io
import os
import pathlib
import re
import shutil

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

url = sa.URL.create("postgresql+psycopg", os.environ["PGUSER"], os.environ["PGPASSWORD"], os.environ["PGHOST"],
                    int(os.environ["PGPORT"]), os.environ["PGDATABASE"]).render_as_string(hide_password=False)
folder = pathlib.Path(os.environ["HOME"]) / "alembic"
shutil.rmtree(folder, ignore_errors=True)
config = Config(str(folder) + ".ini", stdout=(out := io.StringIO()))
config.set_main_option("script_location", str(folder))
config.set_main_option("sqlalchemy.url", url)

MODELS = '''
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
metadata = sa.MetaData()
sa.Table("customer", metadata, sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("name", sa.String(80), nullable=False, comment="as written"), sa.Column("tags", pg.ARRAY(sa.Text)),
    sa.Column("state", sa.Enum("new", "old", name="state"), server_default="new"), sa.Column("more", pg.JSONB),
    sa.Column("born", sa.Date), sa.UniqueConstraint("name"), sa.CheckConstraint("name <> ''", name="named"),
    sa.Index("customer_more", "more", postgresql_using="gin"))
sa.Table("purchase", metadata, sa.Column("id", pg.UUID, primary_key=True, server_default=sa.text("gen_random_uuid()")),
    sa.Column("customer_id", sa.BigInteger, sa.ForeignKey("customer.id", ondelete="CASCADE"), index=True),
    sa.Column("amount", sa.Numeric(10, 2), server_default=sa.text("0")), sa.Column("at", sa.DateTime(timezone=True)),
    CHANGED)
'''


def models(changed):
    (folder / "models.py").write_text(MODELS.replace("CHANGED", changed))


def step(name, run, *words, **options):
    print("==", name)
    try:
        run(config, *words, **options)
    except Exception as error:
        print("error:", type(error).__name__, re.sub(r"0x[0-9a-f]+", "ADDRESS", str(error)))
    print(re.sub(r"[0-9a-f]{12}", "REVISION", out.getvalue()))
    out.seek(0)
    out.truncate()


step("init", command.init, str(folder))
models('sa.Column("note", sa.Text)')
environment = (folder / "env.py").read_text()
(folder / "env.py").write_text(environment.replace(
    "target_metadata = None",
    "import importlib.util\nspec = importlib.util.spec_from_file_location('models', __file__.replace('env.py', 'models.py'))\n"
    "models = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(models)\ntarget_metadata = models.metadata"))
step("check before", command.check)
step("autogenerate", command.revision, autogenerate=True, message="first", rev_id="0001")
step("sql", command.upgrade, "head", sql=True)
step("upgrade", command.upgrade, "head")
step("check after", command.check)
models('sa.Column("note", sa.String(20), nullable=False, server_default="x"), sa.Column("second", sa.Integer, index=True)')
step("check changed", command.check)
step("autogenerate again", command.revision, autogenerate=True, message="second", rev_id="0002")
step("upgrade again", command.upgrade, "head")
step("check again", command.check)
step("current", command.current, verbose=False)
step("downgrade", command.downgrade, "-1")
step("history", command.history, indicate_current=True)
step("to base", command.downgrade, "base")
print("== revisions")
for file in sorted((folder / "versions").glob("*.py")):
    print(re.sub(r"Create Date: .*", "", file.read_text()))
