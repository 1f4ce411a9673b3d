"""What a Django project does with a database: migrate, look, load, query, inspect, go back."""

import io
import os

import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    SECRET_KEY="none",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib." + app for app in
                    ("admin", "admindocs", "auth", "contenttypes", "flatpages", "messages", "postgres", "redirects",
                     "sessions", "sites")],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"context_processors": [
        "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages"]}}],
    SITE_ID=1,
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PGDATABASE"],
        "USER": os.environ["PGUSER"],
        "PASSWORD": os.environ["PGPASSWORD"],
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "OPTIONS": {"server_side_binding": True},
    }},
)
django.setup()


def step(*words, **options):
    print("==", *words)
    out = io.StringIO()
    try:
        call_command(*words, stdout=out, no_color=True, **options)
    except Exception as error:
        print("error:", type(error).__name__, error)
    print(out.getvalue())


for words in (("check", "--database=default"), ("showmigrations",), ("migrate", "--noinput"), ("showmigrations",),
              ("makemigrations", "--check", "--dry-run"), ("sqlmigrate", "auth", "0001"), ("inspectdb",),
              ("createcachetable", "cache_of_ours"), ("migrate", "admin", "zero"), ("migrate", "admin"),
              ("sqlsequencereset", "auth"), ("dumpdata", "contenttypes", "auth.permission", "--natural-foreign")):
    step(*words)

from django.contrib.auth.models import Group, Permission, User
from django.contrib.sites.models import Site
from django.db import connection, models, transaction

print("== queries")
User.objects.bulk_create(User(username=f"user{n}", email=f"u{n}@example.com") for n in range(200))
group = Group.objects.create(name="all")
group.user_set.add(*User.objects.filter(username__contains="1"))
group.permissions.set(Permission.objects.order_by("id")[:5])
print(User.objects.filter(groups=group).count(), User.objects.aggregate(models.Max("username"), models.Count("id")))
print(list(User.objects.order_by("username").values_list("username", "groups__name")[:7]))
print(len(list(User.objects.order_by("id").iterator(chunk_size=50))))
try:
    with transaction.atomic():
        Site.objects.create(domain="other.example", name="other")
        with transaction.atomic():
            Group.objects.create(name="all")
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0])
print(Site.objects.count(), User.objects.filter(username__iregex="^USER1[0-5]$").update(first_name="x"))
with transaction.atomic():
    print(User.objects.select_for_update(skip_locked=True, of=("self",)).filter(first_name="x").delete())
Group.objects.bulk_create([Group(name="all"), Group(name="b")], update_conflicts=True, unique_fields=["name"],
                          update_fields=["name"])
print(list(Group.objects.order_by("name").values_list("name", flat=True)))
print("== introspection")
with connection.cursor() as cursor:
    for table in sorted(connection.introspection.table_names(cursor)):
        print(table, connection.introspection.get_constraints(cursor, table),
              connection.introspection.get_sequences(cursor, table),
              [tuple(column) for column in connection.introspection.get_table_description(cursor, table)])
step("flush", "--noinput")
