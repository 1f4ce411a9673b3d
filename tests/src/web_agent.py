"""The demo's second agent: stock curl and requests against a shop's API, with a token that is not the real one."""

import subprocess
import sys

import requests

API = f"https://{sys.argv[1]}:8443"


def say(text):
    print(text, flush=True)


def curl(*arguments):
    say("$ curl " + " ".join(arguments))
    done = subprocess.run(["curl", "--silent", "--show-error", *arguments], capture_output=True, text=True)
    say((done.stdout + done.stderr).strip())


say("customers, by curl:")
curl(f"{API}/customers")
say("\nwhat the server gets as our token, by requests (it sends requests back):")
echoed = requests.get(f"{API}/echo", headers={"Authorization": "Bearer agents-have-none"}).json()
say("authorization: " + echoed["headers"]["authorization"])
say("\na model's answer, event by event, with a key spread over several of them:")
for line in requests.get(f"{API}/events", stream=True).iter_lines(decode_unicode=True):
    if line:
        say(line)
say("\na refund of 5000, which somebody must approve:")
answer = requests.post(f"{API}/echo/refunds", json={"order": 7, "amount": 5000})
say(f"{answer.status_code}: {answer.json().get('body') or answer.text}")
say("\ndeleting a customer, which nobody may:")
answer = requests.delete(f"{API}/echo/customers/1")
say(f"{answer.status_code}: {answer.json()['detail']}")
