"""A person at a browser without a screen: opens an address, fills in the provider's forms, and prints the last page.

Arguments: the name to sign in with and the password before the address, so that it can stand in `BROWSER`'s place.
"""

import http.cookiejar
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from html import unescape

PAGES_MAX = 12


def attribute(tag, name):
    found = re.search(rf'{name}="([^"]*)"', tag)
    return unescape(found.group(1)) if found else None


def form(page, where, name, password):
    """Where the page's form leads and what it says, filled in; None without one."""
    found = re.search(r"<form([^>]*)>(.*?)</form>", page, re.S)
    if not found:
        return None
    fields = {}
    for tag in re.findall(r"<input([^>]*)>", found.group(2)):
        if attribute(tag, "name"):
            fields[attribute(tag, "name")] = attribute(tag, "value") or ""
    if "login" in fields:
        fields.update(login=name, password=password)
    return urllib.parse.urljoin(where, attribute(found.group(1), "action") or where), fields


def main():
    name, password, address = sys.argv[1:4]
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    browser = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)
    data = None
    for _ in range(PAGES_MAX):
        try:
            with browser.open(address, data, timeout=20) as answer:
                where, page = answer.geturl(), answer.read().decode()
        except urllib.error.HTTPError as error:
            where, page = error.geturl(), error.read().decode()
        filled = form(page, where, name, password)
        if filled is None:
            print(page)
            return
        address, data = filled[0], urllib.parse.urlencode(filled[1]).encode()
    sys.exit(f"still a form after {PAGES_MAX} pages: {page}")


main()
