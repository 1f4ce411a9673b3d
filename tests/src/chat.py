"""A stand-in for Slack, Microsoft Teams and a receiver of webhooks: as much of what they document as the tests need.

Checks tokens, signatures and the shape of what it is sent; a breach is answered as the service does, and told. Told what to
do line by line (JSON) on standard input; tells line by line what it was sent. No Slack and no Teams runs here.
"""
import asyncio
import base64
import hashlib
import hmac
import json
import sys
import time
import urllib.parse

import aiohttp
from aiohttp import web

BOT, APP, TEAM, CHANNEL = "xoxb-the-bots-own", "xapp-the-apps-own", "T0ACME", "C0OPS"
SIGNING = b"8f742231b10e8888abcd99yyyzzz85a5"
WEBHOOK = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
ACK_TIME_MAX = 3.0  # seconds, as Slack documents it

messages = {}  # ts -> blocks
sockets = []
acks = {}
seen = set()
opened = asyncio.Event()


def tell(**what):
    print(json.dumps(what), flush=True)


class Breach(Exception):
    pass


def check(fits, what):
    if not fits:
        raise Breach(what)


def check_text(text, longest):
    check(text["type"] == "plain_text" and text["emoji"] is False, f"formatted text: {text}")
    check(1 <= len(text["text"]) <= longest, f"a text of {len(text['text'])} characters")
    check("<" not in text["text"] and ">" not in text["text"], "control characters of Slack in a text")


def check_blocks(blocks):
    """https://docs.slack.dev/reference/block-kit/blocks"""
    check(1 <= len(blocks) <= 50, "number of blocks")
    for block in blocks:
        kind = block["type"]
        if kind == "header":
            check_text(block["text"], 150)
        elif kind == "section":
            fields = block.get("fields", [])
            check(len(fields) <= 10 and ("text" in block or fields), "a section's fields")
            for field in fields:
                check_text(field, 2000)
            if "text" in block:
                check_text(block["text"], 3000)
        elif kind == "context":
            check(1 <= len(block["elements"]) <= 10, "a context's elements")
            for element in block["elements"]:
                check_text(element, 3000)
        elif kind == "rich_text":
            for piece in block["elements"]:
                check(piece["type"] == "rich_text_preformatted", "a piece of rich text")
                for element in piece["elements"]:
                    check(element["type"] == "text" and 1 <= len(element["text"]) <= 3000, "rich text")
        elif kind == "actions":
            check(1 <= len(block["elements"]) <= 25, "an actions block's elements")
            for button in block["elements"]:
                check(button["type"] == "button" and len(button["action_id"]) <= 255, "a button")
                check_text(button["text"], 75)
                check(len(button.get("value", "")) <= 2000 and len(button.get("url", "")) <= 3000, "a button's value")
        else:
            raise Breach(f"a block of type {kind}")


async def api(request):
    method = request.match_info["method"]
    try:
        token = APP if method == "apps.connections.open" else BOT
        if request.headers.get("Authorization") != f"Bearer {token}":
            tell(breach="token", method=method)
            return web.json_response({"ok": False, "error": "invalid_auth"})
        if method == "users.info":
            check(request.content_type == "application/x-www-form-urlencoded", "content type")
            answer = users_info(await request.post())
        else:
            check(request.content_type == "application/json", "content type")
            answer = METHODS[method](await request.json())
    except (Breach, KeyError, TypeError, ValueError) as error:
        tell(breach=repr(error), method=method)
        return web.json_response({"ok": False, "error": "invalid_arguments"})
    return web.json_response({"ok": True, **answer})


def auth_test(_):
    return {"team_id": TEAM, "user_id": "U0BOT", "bot_id": "B0BOT"}


def users_info(form):
    """Users are called as their ids: U0ADA is ada@acme.example."""
    user = form["user"]
    return {"user": {"id": user, "team_id": TEAM, "profile": {"email": f"{user[2:].lower()}@acme.example"}}}


def connections_open(_):
    return {"url": f"ws://127.0.0.1:{PORT}/link?ticket={len(sockets)}"}


def post(body):
    check(body["channel"] == CHANNEL and body["text"], "channel and text")
    check_blocks(body["blocks"])
    ts = f"1700000000.{len(messages):06}"
    messages[ts] = body["blocks"]
    tell(posted=ts, blocks=body["blocks"])
    return {"channel": CHANNEL, "ts": ts}


def update(body):
    check(body["channel"] == CHANNEL and body["ts"] in messages, "message_not_found")
    check_blocks(body["blocks"])
    messages[body["ts"]] = body["blocks"]
    tell(updated=body["ts"], blocks=body["blocks"])
    return {"channel": CHANNEL, "ts": body["ts"]}


def whisper(body):
    check(body["channel"] == CHANNEL and body["user"], "channel and user")
    check_blocks(body["blocks"])
    tell(whispered=body["user"], text=body["text"], blocks=body["blocks"])
    return {"message_ts": "1700000000.999999"}


METHODS = {
    "auth.test": auth_test,
    "apps.connections.open": connections_open,
    "chat.postMessage": post,
    "chat.update": update,
    "chat.postEphemeral": whisper,
}


async def link(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    sockets.append(socket)
    opened.set()
    await socket.send_json({"type": "hello", "num_connections": 1, "debug_info": {"approximate_connection_time": 3600}})
    tell(socket=len(sockets) - 1)
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT:
            envelope = json.loads(message.data)["envelope_id"]
            acks.pop(envelope).set_result(time.monotonic())
    tell(socket_closed=sockets.index(socket))
    return socket


def check_run(run):
    check(run["type"] == "TextRun" and run["text"], "a run")


async def teams(request):
    """https://adaptivecards.io/explorer/AdaptiveCard.html"""
    try:
        check(request.query.get("sig") == "teams-secret", "sig")
        body = await request.json()
        [attachment] = body["attachments"]
        check(body["type"] == "message", "type")
        check(attachment["contentType"] == "application/vnd.microsoft.card.adaptive", "content type")
        card = attachment["content"]
        check(card["type"] == "AdaptiveCard" and card["version"] >= "1.4", "version")
        for block in card["body"]:
            check(block["type"] == "RichTextBlock", "a block that reads Markdown")
            for run in block["inlines"]:
                check_run(run)
        [action] = card["actions"]
        check(action["type"] == "Action.OpenUrl" and action["url"], "one link, no button")
        check(len(await request.read()) <= 28 * 1024, "size")
    except (Breach, KeyError, TypeError, ValueError) as error:
        tell(breach=repr(error), method="teams")
        return web.Response(status=400)
    tell(card=card)
    return web.Response(status=202)


def webhook_signature(id, at, body):
    signed = hmac.new(WEBHOOK, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


async def hook(request):
    body = await request.read()
    try:
        id, at = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        check(abs(time.time() - int(at)) < 300 and id not in seen, "time and id")
        check(hmac.compare_digest(webhook_signature(id, at, body), request.headers["webhook-signature"]), "signature")
        seen.add(id)
        message = json.loads(body)
        check(message["type"] in ("approval.waiting", "approval.settled") and message["timestamp"], "type")
        for name in ("approval", "digest", "run", "policy", "rule", "who", "effect", "expires", "url"):
            check(name in message["data"], name)
    except (Breach, KeyError, ValueError) as error:
        tell(breach=repr(error), method="hook")
        return web.Response(status=400)
    tell(hook=message)
    return web.Response(status=204)


def payload(user, button, ts):
    [found] = [
        element
        for block in messages[ts] if block["type"] == "actions"
        for element in block["elements"] if element["text"]["text"] == button
    ]
    return {
        "type": "block_actions",
        "user": {"id": user, "username": user.lower(), "name": user.lower(), "team_id": TEAM},
        "api_app_id": "A0APP",
        "token": "unused",
        "container": {"type": "message", "message_ts": ts, "channel_id": CHANNEL, "is_ephemeral": False},
        "trigger_id": f"1.2.{time.monotonic_ns()}",
        "team": {"id": TEAM, "domain": "acme"},
        "channel": {"id": CHANNEL, "name": "ops"},
        "message": {"type": "message", "ts": ts, "blocks": messages[ts]},
        "response_url": "https://hooks.slack.com/actions/T0ACME/1/never",
        "actions": [{"type": "button", "block_id": "b", "action_id": found["action_id"], "text": found["text"],
                     "value": found.get("value", ""), "action_ts": "1700000000.5"}],
    }


async def click(user, button, message, url=None, secret=None):
    """A click as Slack reports it: on the newest socket, or as a signed request to this address."""
    body = payload(user, button, message)
    if url is None:
        envelope = f"envelope-{time.monotonic_ns()}"
        acks[envelope] = acknowledged = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        await sockets[-1].send_json({"envelope_id": envelope, "type": "interactive", "accepts_response_payload": False,
                                     "payload": body})
        return tell(acknowledged=await asyncio.wait_for(acknowledged, ACK_TIME_MAX) - began)
    form = urllib.parse.urlencode({"payload": json.dumps(body)}).encode()
    at = str(int(time.time()))
    key = SIGNING if secret is None else secret.encode()
    signature = "v0=" + hmac.new(key, f"v0:{at}:".encode() + form, hashlib.sha256).hexdigest()
    headers = {"X-Slack-Request-Timestamp": at, "X-Slack-Signature": signature,
               "Content-Type": "application/x-www-form-urlencoded"}
    statuses = []
    async with aiohttp.ClientSession(trust_env=False) as session:
        # Twice, the second time as somebody who has seen the first.
        for _ in range(2):
            async with session.post(url, data=form, headers=headers) as answer:
                statuses.append(answer.status)
    tell(statuses=statuses)


async def answer(url, id, body, forged=False):
    """An answer of a person, passed on by this receiver."""
    at, raw = str(int(time.time())), json.dumps(body).encode()
    signature = webhook_signature(id, at, b"{}" if forged else raw)
    headers = {"webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature,
               "Content-Type": "application/json"}
    async with aiohttp.ClientSession(trust_env=False) as session:
        async with session.post(url, data=raw, headers=headers) as got:
            tell(status=got.status, body=await got.json(content_type=None), kind=got.content_type)


async def refresh():
    """Slack is about to close the newest socket; it does once the next one is there."""
    old = len(sockets) - 1
    opened.clear()
    await sockets[old].send_json({"type": "disconnect", "reason": "refresh_requested", "debug_info": {}})
    await opened.wait()
    still_open = not sockets[old].closed
    await sockets[old].close()
    tell(refreshed=still_open)


async def main():
    global PORT
    app = web.Application()
    app.add_routes([web.post("/api/{method}", api), web.get("/link", link), web.post("/teams", teams),
                    web.post("/hook", hook)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    PORT = site._server.sockets[0].getsockname()[1]
    tell(port=PORT)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        wanted = json.loads(line)
        try:
            await {"click": click, "answer": answer, "refresh": refresh}[wanted.pop("do")](**wanted)
        except Exception as error:
            tell(breach=repr(error), method="command")


asyncio.run(main())
