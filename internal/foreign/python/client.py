"""A stock gRPC client of the guest's agent, on gRPC's C core.

    python3 client.py unix:/run/guest.sock

It needs grpcio and protobuf, and no generated code: it learns the services from
the agent by reflection. It asks for the agent's health, describes the guest, runs
`cat` in it with input, lists its processes, and asks for a session that is not
there. It prints one line for each.
"""
import os
import queue
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

channel = grpc.insecure_channel(sys.argv[1])
pool = descriptor_pool.DescriptorPool()


def message(name):
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)


# Reflection describes itself too, but somebody has to begin: the messages of
# grpc.reflection.v1 that are used here.
def bootstrap():
    f = descriptor_pb2.FileDescriptorProto(name="reflection-in-part.proto", package="grpc.reflection.v1", syntax="proto3")
    string, data, nested = 9, 12, 11
    for name, fields in {
        "ServerReflectionRequest": [("file_containing_symbol", 4, string, 1, ""), ("list_services", 7, string, 1, "")],
        "FileDescriptorResponse": [("file_descriptor_proto", 1, data, 3, "")],
        "ServiceResponse": [("name", 1, string, 1, "")],
        "ListServiceResponse": [("service", 1, nested, 3, "ServiceResponse")],
        "ServerReflectionResponse": [
            ("file_descriptor_response", 4, nested, 1, "FileDescriptorResponse"),
            ("list_services_response", 6, nested, 1, "ListServiceResponse"),
        ],
    }.items():
        m = f.message_type.add(name=name)
        for field, number, kind, label, of in fields:
            added = m.field.add(name=field, number=number, type=kind, label=label)
            if of:
                added.type_name = ".grpc.reflection.v1." + of
    descriptor_pool.Default().Add(f)
    get = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory().GetPrototype
    find = descriptor_pool.Default().FindMessageTypeByName
    return [get(find("grpc.reflection.v1.ServerReflection" + which)) for which in ("Request", "Response")]


Request, Response = bootstrap()
reflect = channel.stream_stream(
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Request.SerializeToString, Response.FromString
)


def learn(symbol):
    """Adds the file that has a symbol, and those that it imports, to the pool."""
    answer = next(reflect(iter([Request(file_containing_symbol=symbol)])))
    files = [descriptor_pb2.FileDescriptorProto.FromString(b) for b in answer.file_descriptor_response.file_descriptor_proto]
    for f in reversed(files):  # what is imported comes last
        try:
            pool.FindFileByName(f.name)
        except KeyError:
            pool.Add(f)


def method(service, name):
    """Returns a callable for a method, with its request's type as an attribute."""
    m = pool.FindServiceByName(service).methods_by_name[name]
    proto = descriptor_pb2.MethodDescriptorProto()
    m.CopyToProto(proto)
    kind = {(False, False): channel.unary_unary, (False, True): channel.unary_stream, (True, True): channel.stream_stream}
    request, reply = message(m.input_type.full_name), message(m.output_type.full_name)
    call = kind[proto.client_streaming, proto.server_streaming](
        f"/{service}/{name}", request.SerializeToString, reply.FromString
    )
    return lambda what, **kw: call(what if proto.client_streaming else request(**what), **kw), request


def execute(args, given):
    call, request = method("guest.v1.ProcessService", "Exec")
    go_on = queue.SimpleQueue()
    go_on.put(request(open=dict(session_id=os.urandom(16), spec=dict(args=args, stdin=True))))
    output = b""
    for m in call(iter(go_on.get, None), timeout=60):
        which = m.WhichOneof("message")
        if which == "opened":
            go_on.put(request(input=dict(offset=0, data=given, eof=True)))
        elif which == "output":
            output += m.output.data
            consumed = m.output.offset + len(m.output.data)  # each stream has offsets of its own
            go_on.put(request(flow_control=dict(stream=m.output.stream, consumed_offset=consumed, window=1 << 20)))
        elif which == "exit":
            go_on.put(None)
            return m.exit.code, output


services = {s.name for s in next(reflect(iter([Request(list_services="*")]))).list_services_response.service}
for name in ("grpc.health.v1.Health", "guest.v1.AgentService", "guest.v1.ProcessService"):
    if name not in services:
        sys.exit(f"{name} is not among {sorted(services)}")
    learn(name)

check, _ = method("grpc.health.v1.Health", "Check")
print("health", json_format.MessageToDict(check({"service": "guest.v1.ProcessService"}))["status"])
info, _ = method("guest.v1.AgentService", "Info")
print("info", info({}).os.kernel_name)
code, output = execute([b"cat"], b"hello from Python")
print("exec", code, output.decode())
big = os.urandom(1 << 15)
code, output = execute([b"cat"], big)
print("bytes", code, output == big)
processes, _ = method("guest.v1.ProcessService", "ListProcesses")
print("processes", "some" if sum(len(m.processes) for m in processes({})) else "none")
wait, _ = method("guest.v1.ProcessService", "Wait")
try:
    wait({"session_id": bytes(16)})
except grpc.RpcError as err:
    print("error", err.code().name)
