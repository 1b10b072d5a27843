package guesttest

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"runtime"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// standIn stands in for the agent where that does not run: it has what Go's standard
// library can do on every system. It trusts its caller.
type standIn struct {
	guestv1.UnimplementedAgentServiceServer
	*rpc.Server
	id string
}

func newStandIn() *standIn {
	s := &standIn{Server: rpc.NewServer(&rpc.ServerConfig{Logger: slog.New(slog.DiscardHandler)}), id: rand.Text()}
	guestv1.RegisterAgentServiceServer(s, s)
	guestv1.RegisterProcessServiceServer(s, &processes{agentID: s.id})
	guestv1.RegisterFileServiceServer(s, files{})
	return s
}

// Close ends all calls, and with them their commands.
func (s *standIn) Close() error {
	s.Stop()
	return nil
}

// Info describes this machine.
func (s *standIn) Info(context.Context, *guestv1.InfoRequest) (*guestv1.InfoResponse, error) {
	host, _ := os.Hostname() // empty if there is none
	return &guestv1.InfoResponse{
		Version: "guesttest", ProtocolVersion: 1, AgentId: s.id, BootId: s.id, Hostname: []byte(host),
		Os:     &guestv1.Os{KernelName: runtime.GOOS, Architecture: runtime.GOARCH},
		Access: &guestv1.Access{Trusted: true, Rule: "embedded", Level: "embedded"},
		Capabilities: []*guestv1.Capability{
			{Name: "exec", Enabled: true}, {Name: "files", Enabled: true}, {Name: "close-output"},
			{Name: "sessions", Reason: "guesttest"}, {Name: "forward", Reason: "guesttest"},
		},
	}, nil
}

// fail returns the status of what the system said of op on path; nil for nil.
func fail(op string, path []byte, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	f := archive.FailureMessage(op, string(path), err)
	return refuse(codes.Code(f.Code), f.Reason, f.Message, &guestv1.ErrorDetail{Errno: f.Errno, Operation: op, Path: path})
}

// refuse makes a status with a reason.
func refuse(code codes.Code, reason, text string, detail *guestv1.ErrorDetail) error {
	detail.Reason = reason
	st, err := status.New(code, text).WithDetails(detail)
	if err != nil {
		return err
	}
	return st.Err()
}

// missing refuses what the stand-in has not.
func missing(what string) error {
	return status.Error(codes.Unimplemented, "guesttest: no "+what+" on "+runtime.GOOS)
}
