"""A person's browser: headless Chromium, told what to do line by line (JSON) on standard input; answers line by line.

Speaks the WebDriver protocol (W3C) with chromedriver itself, which is all that is needed of it here.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

import requests

KEYS = {"Enter": "\ue007", "Escape": "\ue00c"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver, section 12.1
PATIENCE = 20


class Browser:
    def __init__(self, width, dark):
        self.folder = tempfile.TemporaryDirectory(prefix="chromium.")
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in self.driver.stdout:
            if "started successfully on port" in line:
                port = int(line.rsplit(" ", 1)[1].strip().rstrip("."))
                break
        self.http = requests.Session()
        self.http.trust_env = False
        self.base = f"http://127.0.0.1:{port}/session"
        # Root has no sandbox to offer; every page that is opened here is on loopback.
        options = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server",
                   "--disable-background-networking", f"--user-data-dir={self.folder.name}", f"--window-size={width},900"]
        if dark:
            options.append("--force-dark-mode")
        capabilities = {"acceptInsecureCerts": True, "goog:chromeOptions": {"args": options}}
        made = self.ask("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self.base += f"/{made['sessionId']}"

    def ask(self, method, path, body=None):
        answer = self.http.request(method, self.base + path, json=body, timeout=60).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{path}: {answer['error']}: {answer['message'][:300]}")
        return answer

    def run(self, script, *arguments):
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def open(self, url):
        self.ask("POST", "/url", {"url": url})

    def find(self, css):
        return self.ask("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.ask("POST", f"/element/{self.find(css)}/click", {})

    def type(self, css, text):
        self.ask("POST", f"/element/{self.find(css)}/value", {"text": text})

    def keys(self, *names):
        """Presses keys wherever the focus is."""
        actions = []
        for name in names:
            key = KEYS.get(name, name)
            actions += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def until(self, text=None, css=None, url=None):
        """Waits for a text on the page, an element, or a part of the address."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                seen = self.run("return [document.body.innerText, location.href, document.readyState]")
                there = css is None or self.run("return document.querySelector(arguments[0]) !== null", css)
                if there and (text is None or text in seen[0]) and (url is None or url in seen[1]) and seen[2] == "complete":
                    return seen[0]
            except RuntimeError as error:
                # A page that is going away has no document.
                seen = str(error)
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited for {text or css or url}: {seen}")
            time.sleep(0.05)

    def sign_in(self, url, name):
        self.open(url)
        self.until(css="button.primary")
        self.click("button.primary")
        self.until(css="input[name=login]")
        self.type("input[name=login]", name)
        self.type("input[name=password]", "any")
        self.click("button[type=submit]")
        # Consent.
        self.until(text="Authorize")
        self.click("button[type=submit]")
        return self.until(css=".who")

    def prove(self, name, password):
        """Signs in once more, at the provider, by the means that the password names."""
        self.until(css="input[name=login]")
        self.type("input[name=login]", name)
        self.type("input[name=password]", password)
        self.click("button[type=submit]")

    def screenshot(self, path):
        import base64
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.ask("GET", "/screenshot")))

    def close(self):
        try:
            self.ask("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()


def main():
    browser = Browser(int(os.environ.get("WIDTH", "1100")), os.environ.get("DARK") == "1")
    try:
        for line in sys.stdin:
            wanted = json.loads(line)
            try:
                said = {"ok": getattr(browser, wanted.pop("do"))(*wanted.pop("with", []), **wanted)}
            except Exception as error:
                said = {"error": repr(error)}
            print(json.dumps(said), flush=True)
    finally:
        browser.close()


main()
