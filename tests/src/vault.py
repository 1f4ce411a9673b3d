"""A stand-in for HashiCorp Vault: as much of its documented HTTP API as the tests need, for one token.

Arguments: user, password, seconds of a lease. Prints its port, then a line per request. No Vault runs here.
"""

import http.server
import json
import sys

USER, PASSWORD, SECONDS = sys.argv[1], sys.argv[2], int(sys.argv[3])
LEASE = "database/creds/readonly/7Yk"


class Vault(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/v1/database/creds/readonly":
            data = {"username": USER, "password": PASSWORD}
            self.answer(200, self.lease() | {"data": data})
        elif self.path == "/v1/secret/data/planted":
            data = {"data": {"password": PASSWORD}, "metadata": {"version": 1}}
            self.answer(200, {"lease_id": "", "lease_duration": 0, "renewable": False, "data": data})
        else:
            self.answer(404, {"errors": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("lease_id") != LEASE:
            self.answer(400, {"errors": ["lease not found"]})
        elif self.path == "/v1/sys/leases/renew":
            self.answer(200, self.lease())
        elif self.path == "/v1/sys/leases/revoke":
            self.answer(204)
        else:
            self.answer(404, {"errors": []})

    def lease(self):
        return {"lease_id": LEASE, "lease_duration": SECONDS, "renewable": True}

    def answer(self, status, value=None):
        if self.headers["X-Vault-Token"] != "vault-t0ken":
            status, value = 403, {"errors": ["permission denied"]}
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        print(self.command, self.path, status, flush=True)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vault)
print("port", server.server_port, flush=True)
server.serve_forever()
