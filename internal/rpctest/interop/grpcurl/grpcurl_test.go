//go:build linux

package grpcurl

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fullstorydev/grpcurl"
	"github.com/jhump/protoreflect/grpcreflect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/internal/carriers"
	"github.com/vsockrpc/vsockrpc/rpc"
)

func TestMain(m *testing.M) {
	process.MaybeRunLauncher()
	os.Exit(m.Run())
}

// TestGrpcurl does what the command does: list, describe, and call, with
// requests and answers in JSON, over both wires.
func TestGrpcurl(t *testing.T) {
	a, err := agent.New(&agent.Config{Access: access.Rules{UID: uint32(os.Getuid())}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	all := carriers.All(t)
	l, dial := all[slices.IndexFunc(all, func(c carriers.Carrier) bool { return c.Name == "unix" })].Listen(t)
	go a.Serve(l)

	native := rpc.NewClient(dial, nil)
	defer native.Close()
	stock, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer stock.Close()
	for wire, cc := range map[string]grpc.ClientConnInterface{"native": native, "http2": stock} {
		t.Run(wire, func(t *testing.T) { use(t, cc, fmt.Sprintf("%-16s", wire)) })
	}
}

// use calls an agent; session is the id of a session to start.
func use(t *testing.T, cc grpc.ClientConnInterface, session string) {
	id := `"sessionId": "` + base64.StdEncoding.EncodeToString([]byte(session)) + `"`
	client := grpcreflect.NewClientAuto(t.Context(), cc)
	defer client.Reset()
	source := grpcurl.DescriptorSourceFromServer(t.Context(), client)

	services, err := grpcurl.ListServices(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"grpc.health.v1.Health", "guest.v1.AgentService", "guest.v1.FileService", "guest.v1.ProcessService"} {
		if !slices.Contains(services, want) {
			t.Errorf("list: no %s among %q", want, services)
		}
	}
	desc, err := source.FindSymbol("guest.v1.AgentService.Info")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := grpcurl.GetDescriptorText(desc, source); err != nil || !strings.Contains(text, "rpc Info ( .guest.v1.InfoRequest ) returns ( .guest.v1.InfoResponse )") {
		t.Errorf("describe: %q, %v", text, err)
	}

	for _, call := range []struct {
		method, request string
		code            codes.Code
		answer          string // a part of the answer
	}{
		{"grpc.health.v1.Health/Check", `{"service": "guest.v1.ProcessService"}`, codes.OK, `"status": "SERVING"`},
		{"guest.v1.AgentService/Info", `{}`, codes.OK, `"kernelName": "Linux"`},
		{"guest.v1.ProcessService/ListProcesses", `{}`, codes.OK, `"processes": [`},
		{"guest.v1.ProcessService/Start", `{` + id + `, "spec": {"args": ["L2Jpbi9zaA==", "LWM=", "ZXhpdCA3"]}}`, codes.OK, `"session": {`},
		{"guest.v1.ProcessService/Wait", `{` + id + `}`, codes.OK, `"code": 7`},
		{"guest.v1.ProcessService/Remove", `{` + id + `}`, codes.OK, `{`},
		{"guest.v1.ProcessService/Wait", `{` + id + `}`, codes.NotFound, ""},
	} {
		var out bytes.Buffer
		parser, formatter, err := grpcurl.RequestParserAndFormatter(grpcurl.FormatJSON, source, strings.NewReader(call.request), grpcurl.FormatOptions{})
		if err != nil {
			t.Fatal(err)
		}
		handler := &grpcurl.DefaultEventHandler{Out: &out, Formatter: formatter}
		if err := grpcurl.InvokeRPC(t.Context(), source, cc, call.method, nil, handler, parser.Next); err != nil {
			t.Fatalf("%s: %v", call.method, err)
		}
		if handler.Status.Code() != call.code || !strings.Contains(out.String(), call.answer) {
			t.Errorf("%s: %v, %.300s", call.method, handler.Status, out.String())
		}
	}
	if err := grpcurl.InvokeRPC(t.Context(), source, cc, "guest.v1.ProcessService/None", nil, &grpcurl.DefaultEventHandler{}, nil); err == nil {
		t.Error("a method that does not exist can be called")
	}
}
