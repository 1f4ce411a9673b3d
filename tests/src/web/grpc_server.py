"""The service orders.Orders, with bytes for messages: no generated code on either side."""

from concurrent import futures

import grpc

from planted import card


class Orders(grpc.GenericRpcHandler):
    def __init__(self, log):
        self.log = log

    def service(self, details):
        method = details.method
        self.log.write(what="request", listener="grpc", version="2", method="POST", target=method,
                       headers=[[name, value if isinstance(value, str) else value.hex()]
                                for name, value in details.invocation_metadata])
        match method.rpartition("/")[2]:
            case "Get" | "Cancel" | "CancelAll":
                return grpc.unary_unary_rpc_method_handler(lambda request, context: b"got " + request)
            case "List":
                return grpc.unary_stream_rpc_method_handler(
                    lambda request, context: (b"%d" % n for n in range(int(request))))
            case "Put":
                return grpc.stream_unary_rpc_method_handler(
                    lambda requests, context: b"%d" % sum(int(request) for request in requests))
            case "Chat":
                return grpc.stream_stream_rpc_method_handler(
                    lambda requests, context: (b"echo " + request for request in requests))
            case "Fail":
                return grpc.unary_unary_rpc_method_handler(self.fail)
            case "Meta":
                return grpc.unary_unary_rpc_method_handler(self.meta)
            case "Secret":
                return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x0a\x10" + card(3).encode())
        return None

    @staticmethod
    def fail(request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such order")

    @staticmethod
    def meta(request, context):
        context.send_initial_metadata([("x-initial", "one")])
        context.set_trailing_metadata([("x-trailing", "two")])
        return request


def start_grpc(folder, address, port, log):
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Orders(log)])
    with open(f"{folder}/server.key", "rb") as key, open(f"{folder}/server.crt", "rb") as certificate:
        credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
    if server.add_secure_port(f"{address}:{port}", credentials) != port:
        raise SystemExit("the port for gRPC is taken")
    server.start()
    return server
