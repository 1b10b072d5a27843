package guest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// twoGuests is an address at which one guest answers, and after a cut another one.
type twoGuests struct {
	guests [2]*fakeAgent
	now    atomic.Int32

	mu    sync.Mutex
	conns []net.Conn
}

// dialer makes connections to the guest that answers now.
func (a *twoGuests) dialer(ctx context.Context) (net.Conn, error) {
	c, err := a.guests[a.now.Load()].listener.DialContext(ctx)
	if err == nil {
		a.mu.Lock()
		a.conns = append(a.conns, c)
		a.mu.Unlock()
	}
	return c, err
}

// exchange breaks all connections, and has the other guest answer from now on.
func (a *twoGuests) exchange() {
	a.now.Store(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		c.Close()
	}
}

func newTwoGuests(t *testing.T, first, second *guestv1.InfoResponse, files [2]*fakeFiles) *twoGuests {
	a := &twoGuests{}
	for i, info := range []*guestv1.InfoResponse{first, second} {
		info.Version, info.ProtocolVersion, info.Access = "v1", 1, &guestv1.Access{Trusted: true}
		a.guests[i] = newFakeAgent(t, func(r grpc.ServiceRegistrar) {
			f := &fakeAgent{info: info, start: func(req *guestv1.StartRequest) (*guestv1.StartResponse, error) {
				return &guestv1.StartResponse{Session: &guestv1.SessionInfo{SessionId: req.SessionId, Pid: uint32(i + 1)}}, nil
			}}
			guestv1.RegisterAgentServiceServer(r, f)
			guestv1.RegisterProcessServiceServer(r, f)
			if files[i] != nil {
				guestv1.RegisterFileServiceServer(r, files[i])
			}
		})
	}
	return a
}

func (a *twoGuests) dial(t *testing.T) *Guest {
	t.Helper()
	g, err := Dial(t.Context(), "fake", &Config{Wire: WireGRPC, Dialer: a.dialer, Reconnect: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// TestAnotherGuestAnswers has the guest exchanged for another one behind a lost
// connection: nothing is sent to it.
func TestAnotherGuestAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		first, second *guestv1.InfoResponse
		other         bool
	}{
		"another boot":                {&guestv1.InfoResponse{BootId: "a", AgentId: "1"}, &guestv1.InfoResponse{BootId: "b", AgentId: "2"}, true},
		"another machine":             {&guestv1.InfoResponse{BootId: "a", MachineId: "m"}, &guestv1.InfoResponse{BootId: "b", MachineId: "n"}, true},
		"one that does not say":       {&guestv1.InfoResponse{BootId: "a", MachineId: "m"}, &guestv1.InfoResponse{}, true},
		"a machine that is not named": {&guestv1.InfoResponse{MachineId: "m"}, &guestv1.InfoResponse{}, true},
		"another run of the agent":    {&guestv1.InfoResponse{BootId: "a", AgentId: "1"}, &guestv1.InfoResponse{BootId: "a", AgentId: "2"}, false},
		"the same, booted again":      {&guestv1.InfoResponse{BootId: "a", MachineId: "m"}, &guestv1.InfoResponse{BootId: "b", MachineId: "m"}, false},
		"no word, before or after":    {&guestv1.InfoResponse{AgentId: "1"}, &guestv1.InfoResponse{AgentId: "2"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newTwoGuests(t, tt.first, tt.second, [2]*fakeFiles{})
			g := a.dial(t)
			start := func() (int, error) {
				k := g.Command(t.Context(), "x")
				k.Env, k.Detach = []string{"SECRET=1"}, true
				err := k.Start()
				if err != nil {
					return 0, err
				}
				return k.Process.Pid, nil
			}
			if pid, err := start(); err != nil || pid != 1 {
				t.Fatalf("before: %d, %v", pid, err)
			}
			a.exchange()
			for range 2 {
				pid, err := start()
				e, _ := errors.AsType[*Error](err)
				switch {
				case tt.other && (e == nil || e.Reason != ReasonOtherGuest || e.Guest != "fake" || e.Op == "" || e.Remedy == ""):
					t.Errorf("afterwards: pid %d, %#v, want reason %s", pid, err, ReasonOtherGuest)
				case !tt.other && (err != nil || pid != 2):
					t.Errorf("afterwards: pid %d, %v, want the second guest's", pid, err)
				}
			}
		})
	}
}

// TestCopyStaysWithItsBoot cuts a copy: it goes on only in the same boot, although
// other calls go on with a guest that was booted again.
func TestCopyStaysWithItsBoot(t *testing.T) {
	for _, boot := range []string{"a", "b"} {
		var a *twoGuests
		begin := func(st guestv1.FileService_DownloadServer) error {
			return st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_File{File: &guestv1.FileStart{
				Entry: &guestv1.Entry{Number: 1, Mode: 0o100644, Size: 1 << 20}}}})
		}
		asked := false
		files := [2]*fakeFiles{{download: func(st guestv1.FileService_DownloadServer) error {
			if err := begin(st); err != nil {
				return err
			}
			a.exchange()
			return nil
		}}, {download: func(st guestv1.FileService_DownloadServer) error {
			asked = true
			if _, err := st.Recv(); err != nil { // that it is ready: a call that has ended takes nothing
				return err
			}
			return st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Open{}}) // ends it
		}}}
		a = newTwoGuests(t, &guestv1.InfoResponse{BootId: "a", MachineId: "m"}, &guestv1.InfoResponse{BootId: boot, MachineId: "m"}, files)
		_, err := a.dial(t).Files().CopyFrom(wait.Context(t), []string{"/f"}, filepath.Join(t.TempDir(), "f"), nil)
		want := ReasonProtocol
		if boot == "b" {
			want = ReasonOtherGuest
		}
		wantReason(t, err, want)
		if asked != (boot == "a") {
			t.Errorf("boot %s: the second guest was asked: %v", boot, asked)
		}
	}
}

// TestKeyStays has a guest without a name exchanged for one with another key.
func TestKeyStays(t *testing.T) {
	var certs [2]*tls.Config
	for i := range certs {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if certs[i], err = keys.ServerConfig(key); err != nil {
			t.Fatal(err)
		}
	}
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Int32
	var last atomic.Pointer[net.Conn]
	listeners := [2]string{}
	for i, c := range certs {
		srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(c)))
		guestv1.RegisterAgentServiceServer(srv, &fakeAgent{info: &guestv1.InfoResponse{BootId: "the same", Access: &guestv1.Access{Trusted: true}}})
		listeners[i] = filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", listeners[i])
		if err != nil {
			t.Fatal(err)
		}
		go srv.Serve(l)
		t.Cleanup(srv.Stop)
	}
	g, err := Dial(t.Context(), "fake", &Config{Wire: WireGRPC, Trust: &Trust{Key: own}, Reconnect: -1, Dialer: func(ctx context.Context) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", listeners[now.Load()])
		if err == nil {
			last.Store(&c)
		}
		return c, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	before := g.GuestKey()
	now.Store(1)
	(*last.Load()).Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for e := (*Error)(nil); e == nil || e.Reason != ReasonOtherGuest; {
		_, err := g.Sessions(ctx)
		e, _ = errors.AsType[*Error](err)
		if err == nil || ctx.Err() != nil {
			t.Fatalf("Sessions: %v, want reason %s", err, ReasonOtherGuest)
		}
	}
	if g.GuestKey() != before {
		t.Error("the other guest's key has become the guest's")
	}
}

// TestTunnelsAreBounded has an agent send to connections that nobody reads.
func TestTunnelsAreBounded(t *testing.T) {
	h := &held{most: 1 << 20}
	if err := h.take(64 << 10); err != nil {
		t.Error(err)
	}
	if err := h.take(1<<20 - 64<<10 + 1); err == nil || h.bytes.Load() != 64<<10 {
		t.Errorf("a segment that is too long: %v, %d bytes are held", err, h.bytes.Load())
	}
	for range 15 {
		if err := h.take(64 << 10); err != nil {
			t.Error(err)
		}
	}
	if err := h.take(1); err == nil || h.bytes.Load() != 1<<20 {
		t.Errorf("one byte too many: %v, %d bytes are held", err, h.bytes.Load())
	}
}
