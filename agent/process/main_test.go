//go:build linux

package process

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// patience bounds every wait of these tests; none takes a part of it unless
// something is broken.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	MaybeRunLauncher()
	if name := os.Getenv(helperEnv); name != "" {
		runHelper(name, os.Args[1:])
	}
	// Who runs the tests may ignore these (nohup does), and children inherit
	// that: a signal that is caught here is again the default in a child.
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	os.Exit(m.Run())
}

// carrier carries a Server to its client.
type carrier struct {
	srv    *Server
	client guestv1.ProcessServiceClient
}

// carrierEnv chooses the wire of newCarrier: empty for stock gRPC, or native.
const carrierEnv = "PROCESS_TEST_CARRIER"

// newCarrier serves a Server and connects to it, and ends both with the test.
func newCarrier(t testing.TB, cfg *Config) *carrier {
	t.Helper()
	if cfg == nil {
		cfg = &Config{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &carrier{srv: NewServer(cfg)}
	lis := bufconn.Listen(1 << 20)
	dial := func(ctx context.Context) (net.Conn, error) { return lis.DialContext(ctx) }
	var conn interface {
		grpc.ClientConnInterface
		Close() error
	}
	var stop func()
	if os.Getenv(carrierEnv) == "native" {
		server := rpc.NewServer(nil)
		guestv1.RegisterProcessServiceServer(server, c.srv)
		go server.Serve(lis)
		stop = server.Stop
		conn = rpc.NewClient(dial, nil)
	} else {
		server := grpc.NewServer()
		guestv1.RegisterProcessServiceServer(server, c.srv)
		go server.Serve(lis)
		stop = server.Stop
		var err error
		conn, err = grpc.NewClient("passthrough:guest",
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatalf("dial: %v", err)
		}
	}
	t.Cleanup(func() {
		if err := c.srv.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		conn.Close()
		stop()
	})
	c.client = guestv1.NewProcessServiceClient(conn)
	return c
}

// The same on the wire of package rpc, where the bytes of streams take paths of
// their own.
func TestNativeWire(t *testing.T) {
	if os.Getenv("VSOCKRPC_LAB") != "" {
		t.Skip("the wire is in memory, and the same outside the lab")
	}
	for name, test := range map[string]func(*testing.T){
		"streams":         TestExecStreams,
		"complete output": TestOutputBeforeExitIsComplete,
		"each offset":     TestAttachAtEachOffset,
		"every cut":       TestResumeAfterEveryCut,
		"stdin":           TestStdinResumes,
		"stdin's rules":   TestStdinRules,
		"deaf":            TestDeafProcessDoesNotBlockTheStream,
		"closed stdin":    TestClosedStdinIsFedQuietly,
		"observers":       TestObserverIsToldWhatItLost,
		"take-over":       TestTakeOver,
		"terminal":        TestTerminal,
		"watch":           TestWatch,
		"acknowledged":    TestExitIsAcknowledged,
		"close":           TestClose,
		"many":            TestManySessionsLeaveNothing,
		"concurrent":      TestConcurrentExecs,
		"small ring":      TestSmallRing,
		"start fails":     TestStartFails,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(carrierEnv, "native")
			test(t)
		})
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newID() []byte {
	id := make([]byte, 16)
	rand.Read(id)
	return id
}

func args(words ...string) [][]byte { return toBytes(words) }

func shell(script string) *guestv1.SessionSpec {
	return &guestv1.SessionSpec{Args: args("/bin/sh", "-c", script)}
}

// stream is the client's side of Exec and Attach.
type stream struct {
	send  func(*guestv1.ExecRequest) error
	recv  func() (*guestv1.ExecResponse, error)
	close func() error // half
	stop  context.CancelFunc

	opened *guestv1.Opened
	out    [outputs][]byte
	at     [outputs]uint64 // where each goes on
	lost   [outputs]uint64
	eof    [outputs]bool
	flows  []*guestv1.FlowControl
	urged  [outputs]bool // asked to acknowledge, since the last time
	exit   *guestv1.Exit
}

// exec opens a stream by Exec and receives its first response.
func (c *carrier) exec(ctx context.Context, open *guestv1.Open) (*stream, error) {
	ctx, stop := context.WithCancel(ctx)
	s, err := c.client.Exec(ctx)
	if err != nil {
		stop()
		return nil, err
	}
	return begin(&stream{send: s.Send, recv: s.Recv, close: s.CloseSend, stop: stop}, open)
}

// attach is exec by Attach, whose messages are those of Exec on the wire.
func (c *carrier) attach(ctx context.Context, open *guestv1.Open) (*stream, error) {
	ctx, stop := context.WithCancel(ctx)
	s, err := c.client.Attach(ctx)
	if err != nil {
		stop()
		return nil, err
	}
	return begin(&stream{
		send: func(m *guestv1.ExecRequest) error { return s.SendMsg(m) },
		recv: func() (*guestv1.ExecResponse, error) {
			m := new(guestv1.ExecResponse)
			return m, s.RecvMsg(m)
		},
		close: s.CloseSend, stop: stop,
	}, open)
}

func begin(s *stream, open *guestv1.Open) (*stream, error) {
	if err := s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: open}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	m, err := s.recv()
	if err != nil {
		s.stop()
		return nil, err
	}
	if s.opened = m.GetOpened(); s.opened == nil {
		return nil, fmt.Errorf("the first response is %v", m)
	}
	s.at = [outputs]uint64{s.opened.StdoutOffset, s.opened.StderrOffset}
	return s, nil
}

// next takes one response.
func (s *stream) next() error {
	m, err := s.recv()
	if err != nil {
		return err
	}
	switch m := m.Message.(type) {
	case *guestv1.ExecResponse_Output:
		o := m.Output
		i := int(o.Stream - guestv1.Stream_STREAM_STDOUT)
		if o.Offset != s.at[i]+o.Lost {
			return fmt.Errorf("%v goes on at %d, not at %d with %d lost", o.Stream, o.Offset, s.at[i], o.Lost)
		}
		if s.eof[i] {
			return fmt.Errorf("%v goes on after its end", o.Stream)
		}
		s.out[i] = append(s.out[i], o.Data...)
		s.at[i] = o.Offset + uint64(len(o.Data))
		s.lost[i] += o.Lost
		s.eof[i] = o.Eof
		s.urged[i] = s.urged[i] || o.Acknowledge
	case *guestv1.ExecResponse_FlowControl:
		s.flows = append(s.flows, m.FlowControl)
	case *guestv1.ExecResponse_Exit:
		s.exit = m.Exit
	default:
		return fmt.Errorf("unexpected response %v", m)
	}
	return nil
}

// ack acknowledges all that was received.
func (s *stream) ack() error {
	for i, name := range streamNames {
		if err := s.ackAt(name, s.at[i]); err != nil {
			return err
		}
	}
	return nil
}

// ackWhenAsked acknowledges a stream only if the agent has asked for it.
func (s *stream) ackWhenAsked() error {
	for i, name := range streamNames {
		if s.urged[i] {
			s.urged[i] = false
			if err := s.ackAt(name, s.at[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stream) ackAt(name guestv1.Stream, off uint64) error {
	err := s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_FlowControl{
		FlowControl: &guestv1.FlowControl{Stream: name, ConsumedOffset: off, Window: defaultRing},
	}})
	if errors.Is(err, io.EOF) {
		return nil // the call has ended, which recv tells more of
	}
	return err
}

func (s *stream) input(off uint64, data []byte, eof bool) error {
	return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Input{
		Input: &guestv1.Input{Offset: off, Data: data, Eof: eof},
	}})
}

func (s *stream) leave(keep bool) error {
	return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Leave{Leave: &guestv1.Leave{Keep: keep}}})
}

// until takes responses until one makes cond true.
func (s *stream) until(cond func() bool) error {
	for !cond() {
		if err := s.next(); err != nil {
			return err
		}
	}
	return nil
}

// finish takes everything up to the exit, and the end of the call, without
// acknowledging any of it.
func (s *stream) finish() error {
	if err := s.until(func() bool { return s.exit != nil }); err != nil {
		return err
	}
	if _, err := s.recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the exit came %v", err)
	}
	return nil
}

// run executes a spec with some stdin to its end, as a client that only reads.
func (c *carrier) run(ctx context.Context, spec *guestv1.SessionSpec, stdin string) (*stream, error) {
	spec.Stdin = spec.Stdin || stdin != ""
	s, err := c.exec(ctx, &guestv1.Open{SessionId: newID(), Spec: spec})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if spec.Stdin {
		if err := s.input(0, []byte(stdin), true); err != nil {
			return nil, err
		}
	}
	if err := s.close(); err != nil {
		return nil, err
	}
	return s, s.finish()
}

// reasonOf returns the stable word of an error.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if d, ok := d.(*guestv1.ErrorDetail); ok {
			return d.Reason
		}
	}
	return ""
}
