//go:build linux

package hostile

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

func TestMain(m *testing.M) {
	runUser()
	process.MaybeRunLauncher()
	maybeFlood()
	code := m.Run()
	removeBuilt()
	os.Exit(code)
}

// peerListener says who its clients are.
type peerListener struct {
	net.Listener
	peer transport.Peer
}

func (l peerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &peerConn{c.(*net.UnixConn), l.peer}, nil
}

type peerConn struct {
	*net.UnixConn
	peer transport.Peer
}

func (c *peerConn) AuthInfo() credentials.AuthInfo { return transport.AuthInfo{Peer: c.peer} }

// RawConn implements rpc.RawConn, as the connections of transport do.
func (c *peerConn) RawConn() (self net.Conn, socket syscall.RawConn) {
	socket, err := c.SyscallConn()
	if err != nil {
		return nil, nil
	}
	return c, socket
}

// victim is a real agent, and an honest client that calls all the time.
type victim struct {
	t               *testing.T
	owner, stranger func(context.Context) (net.Conn, error)
	log             lockedBuffer
	goroutines      int
	memory          uint64
	peak            atomic.Uint64 // memory in use
	calls           atomic.Int64
	slowest         atomic.Int64
	connections     []net.Conn
	stop            context.CancelFunc
	done            chan struct{}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newVictim(t *testing.T) *victim {
	v := &victim{t: t, done: make(chan struct{})}
	a, err := agent.New(&agent.Config{
		Logger: slog.New(slog.NewTextHandler(&v.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		File:   &file.Config{Root: t.TempDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	as := func(port uint32) func(net.Listener) error {
		return func(l net.Listener) error {
			return a.Serve(peerListener{l, transport.Peer{Network: transport.NetworkVsock, CID: transport.CIDHost, Port: port}})
		}
	}
	v.owner, v.stranger = serve(t, as(900)), serve(t, as(50_000))
	honest := rpc.NewClient(v.owner, nil)
	t.Cleanup(func() { honest.Close() })
	if err := v.info(honest); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	v.goroutines, v.memory = runtime.NumGoroutine(), inUse()
	ctx, stop := context.WithCancel(t.Context())
	v.stop = stop
	go func() {
		defer close(v.done)
		for ctx.Err() == nil {
			start := time.Now()
			if err := v.info(honest); err != nil {
				t.Errorf("the honest client: %v", err)
				return
			}
			v.peak.Store(max(v.peak.Load(), inUse()))
			v.calls.Add(1)
			v.slowest.Store(max(v.slowest.Load(), int64(time.Since(start))))
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return v
}

func (v *victim) info(cc grpc.ClientConnInterface) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := guestv1.NewAgentServiceClient(cc).Info(ctx, &guestv1.InfoRequest{}, grpc.WaitForReady(true))
	return err
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// How much memory one connection or two may make an agent take, besides what the
// test itself does: of callers who are not known, and of those who are, who may
// have thousands of calls open.
const (
	maxStrangers = 48 << 20
	maxOwner     = 256 << 20
)

// within checks how much memory has been in use.
func (v *victim) within(limit uint64) {
	v.t.Helper()
	if n := v.peak.Load(); n > v.memory+limit {
		v.t.Errorf("%d MiB in use, %d before", n>>20, v.memory>>20)
	}
}

// unharmed checks that the honest client has been served all the time, that others
// are too, and that nothing of the attack is left.
func (v *victim) unharmed() {
	t := v.t
	t.Helper()
	fresh := rpc.NewClient(v.owner, nil)
	defer fresh.Close()
	if err := v.info(fresh); err != nil {
		t.Errorf("another client: %v", err)
	}
	before := v.calls.Load()
	wait.For(t, "more calls of the honest client", func() bool { return v.calls.Load() >= before+3 })
	v.stop()
	<-v.done
	fresh.Close()
	wait.For(t, "goroutines have ended", func() bool { return runtime.NumGoroutine() <= v.goroutines+5 })
	t.Logf("%d honest calls, the slowest %v", v.calls.Load(), time.Duration(v.slowest.Load()))
}

// attacker is a raw connection.
type attacker struct{ net.Conn }

// flood writes b again and again: so many times, or until the other side takes no
// more for a while.
func (a attacker) flood(times int, next func(i uint32) []byte) {
	for i := range times {
		a.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := a.Write(next(uint32(i))); err != nil {
			return
		}
	}
}

// ended reports whether the other side closes the connection. What it says before
// is thrown away.
func (a attacker) ended() bool {
	a.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, a)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

const watch, infoMethod = "/grpc.health.v1.Health/Watch", "/guest.v1.AgentService/Info"

// h2Attacks are what a client of HTTP/2 can do wrong. Those that end have the
// connection closed.
var h2Attacks = []struct {
	name string
	ends bool
	do   func(a attacker)
}{
	{"garbage", true, func(a attacker) {
		b := make([]byte, 64<<10)
		rand.Read(b)
		a.flood(1, func(uint32) []byte { return append(slices.Clone(h2Greeting), b...) })
	}},
	{"a frame that is cut off", true, func(a attacker) {
		a.Write(append(slices.Clone(h2Greeting), h2Call(1, watch, endStream)[:20]...))
		a.Conn.(*net.UnixConn).CloseWrite()
	}},
	{"a frame of 16 MiB", true, func(a attacker) {
		a.Write(append(slices.Clone(h2Greeting), 0xff, 0xff, 0xff, h2Data, 0, 0, 0, 0, 1))
		a.flood(4096, func(uint32) []byte { return make([]byte, 4096) })
	}},
	{"headers without end", true, func(a attacker) {
		a.Write(h2Greeting)
		a.Write(h2Frame(h2Headers, 0, 1, h2Fields(":method", "POST")))
		field := bytes.Repeat(h2Fields("x-a", strings.Repeat("y", 100)), 100)
		a.flood(5000, func(uint32) []byte { return h2Frame(h2Continuation, 0, 1, field) })
	}},
	{"headers that are too long", false, func(a attacker) {
		a.Write(h2Greeting)
		field := bytes.Repeat(h2Fields("x-a", strings.Repeat("y", 100)), 150)
		a.flood(500, func(i uint32) []byte { return h2Frame(h2Headers, endHeaders|endStream, 2*i+1, field) })
	}},
	{"streams that are reset at once", false, func(a attacker) {
		a.Write(h2Greeting)
		a.flood(5000, func(i uint32) []byte {
			return append(h2Call(2*i+1, watch, endStream), h2Frame(h2Reset, 0, 2*i+1, []byte{0, 0, 0, 8})...)
		})
	}},
	{"streams without end", false, func(a attacker) {
		a.Write(h2Greeting)
		a.flood(5000, func(i uint32) []byte { return h2Call(2*i+1, infoMethod, 0) })
	}},
	{"messages that do not come", false, func(a attacker) {
		a.Write(h2Greeting)
		a.flood(1500, func(i uint32) []byte {
			// 4 MiB are announced, and all comes that the window lets through.
			b := append(h2Call(2*i+1, infoMethod, 0), h2Frame(h2Data, 0, 2*i+1, []byte{0, 0, 0x3f, 0xff, 0xff})...)
			return append(b, h2Frame(h2Data, 0, 2*i+1, make([]byte, 8<<10))...)
		})
	}},
	{"PING without end", true, func(a attacker) {
		a.Write(h2Greeting)
		a.flood(5000, func(uint32) []byte { return h2Frame(h2Ping, 0, 0, make([]byte, 8)) })
	}},
	{"SETTINGS without end", false, func(a attacker) {
		a.Write(h2Greeting)
		a.flood(8000, func(uint32) []byte { return h2Frame(h2Settings, 0, 0, nil) })
	}},
	{"WINDOW_UPDATE of one byte", false, func(a attacker) {
		a.Write(h2Greeting)
		one := bytes.Repeat(h2Frame(h2WindowUpdate, 0, 0, []byte{0, 0, 0, 1}), 100)
		a.flood(200, func(uint32) []byte { return one })
	}},
	{"WINDOW_UPDATE of nothing", true, func(a attacker) {
		a.Write(append(slices.Clone(h2Greeting), h2Frame(h2WindowUpdate, 0, 0, make([]byte, 4))...))
	}},
	{"windows beyond the largest", false, func(a attacker) {
		a.Write(h2Greeting)
		a.flood(100, func(uint32) []byte { return h2Frame(h2WindowUpdate, 0, 0, []byte{0x7f, 0xff, 0xff, 0xff}) })
	}},
	{"streams of the server's", true, func(a attacker) {
		a.Write(append(slices.Clone(h2Greeting), h2Call(2, watch, endStream)...))
	}},
	{"a stream that comes again", true, func(a attacker) {
		b := append(slices.Clone(h2Greeting), h2Call(5, watch, endStream)...)
		a.Write(append(b, h2Call(3, watch, endStream)...))
	}},
	{"DATA for no stream", false, func(a attacker) {
		a.Write(h2Greeting)
		a.flood(1000, func(i uint32) []byte { return h2Frame(h2Data, 0, 2*i+1, make([]byte, 1000)) })
	}},
	{"answers that are not read", false, func(a attacker) {
		a.Write(h2Greeting)
		a.flood(3000, func(i uint32) []byte {
			return append(h2Call(2*i+1, infoMethod, 0), h2Frame(h2Data, endStream, 2*i+1, make([]byte, 5))...)
		})
	}},
	{"a message that is compressed", false, func(a attacker) {
		a.Write(h2Greeting)
		a.Write(append(h2Call(1, infoMethod, 0), h2Frame(h2Data, endStream, 1, []byte{1, 0, 0, 0, 3, 1, 2, 3})...))
	}},
}

// TestHostileHTTP2: whatever a client says on HTTP/2, the agent goes on serving
// others, within its memory, and nothing is left when the client has gone.
func TestHostileHTTP2(t *testing.T) {
	for _, attack := range h2Attacks {
		t.Run(attack.name, func(t *testing.T) {
			v := newVictim(t)
			for _, who := range []struct {
				dials  []func(context.Context) (net.Conn, error)
				memory uint64
			}{
				{[]func(context.Context) (net.Conn, error){v.stranger, v.stranger}, maxStrangers},
				{[]func(context.Context) (net.Conn, error){v.owner}, maxOwner},
			} {
				v.peak.Store(0)
				var all sync.WaitGroup
				for _, dial := range who.dials {
					all.Go(func() {
						nc, err := dial(t.Context())
						if err != nil {
							t.Error(err)
							return
						}
						defer nc.Close()
						a := attacker{nc}
						attack.do(a)
						if attack.ends && !a.ended() {
							t.Error("the connection is still open")
						}
					})
				}
				all.Wait()
				v.within(who.memory)
			}
			v.unharmed()
		})
	}
}

// TestSlowClients: connections that stop at any stage of their handshake are ended
// in time, and keep nobody out meanwhile.
func TestSlowClients(t *testing.T) {
	stages := map[string]string{
		"nothing":                 "",
		"one byte":                "V",
		"half of the magic":       "VSOCKRPC/1",
		"half of the preface":     h2Preface[:12],
		"no SETTINGS":             h2Preface,
		"half of SETTINGS":        h2Preface + "\x00\x00\x00\x04",
		"a byte of TLS":           "\x16",
		"half a ClientHello":      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaa",
		"a ClientHello of 16 MiB": "\x16\x03\x01\x40\x00\x01\xff\xff\xff" + strings.Repeat("a", 1000),
	}
	v := newVictim(t)
	var all sync.WaitGroup
	// The oldest give way to the others: some of each kind are among the last.
	for range 3 * rpc.DefaultMaxHandshakes / len(stages) {
		for name, begin := range stages {
			nc, err := v.stranger(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = nc.Write([]byte(begin))
			all.Go(func() {
				defer nc.Close()
				if begin == "V" {
					// The preface comes, but would take a minute.
					go drip(nc, "SOCKRPC/1\r\n\r\n")
				}
				if a := (attacker{nc}); !a.ended() {
					t.Errorf("%s: the connection is still open", name)
				}
			})
		}
	}
	all.Wait()
	v.within(maxStrangers)
	v.unharmed()
	for _, want := range []string{"no valid preface in time", "TLS: "} {
		if !strings.Contains(v.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, v.log.String())
		}
	}
}

// drip writes a byte in each second, until nc is closed.
func drip(nc net.Conn, text string) {
	for i := range len(text) {
		time.Sleep(time.Second)
		if _, err := nc.Write([]byte{text[i]}); err != nil {
			return
		}
	}
}

// requestsSeed is fixed, so that what fails fails again.
const requestsSeed = 6

// TestHostileRequests: every method takes requests that lie, at the edges of all
// numbers, and answers with a code.
func TestHostileRequests(t *testing.T) {
	v := newVictim(t)
	for _, dial := range []func(context.Context) (net.Conn, error){v.owner, v.stranger} {
		c := rpc.NewClient(dial, nil)
		for i, temper := range append(slices.Clone(Tempers), Mixed, Mixed, Mixed) {
			var wg sync.WaitGroup
			requests := Requests(temper, requestsSeed+uint64(i))
			for method := range maps.Keys(requests) {
				if method == guestv1.ProcessService_Signal_FullMethodName {
					continue // it can mean any process here
				}
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), deadline)
					defer cancel()
					err := call(ctx, c, method, requests[method])
					if text := fmt.Sprint(err); strings.Contains(text, "panic") || status.Code(err) == codes.Unknown {
						t.Errorf("%s of %s: %v", method, temper, err)
					}
				})
			}
			wg.Wait()
		}
		c.Close()
	}
	v.unharmed()
}

// call sends a request, and the same again, and reads what comes.
func call(ctx context.Context, cc grpc.ClientConnInterface, method string, request any) error {
	st, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	for range 3 {
		if err := st.SendMsg(request); err != nil {
			break
		}
		if d := descriptor(method); !d.IsStreamingClient() {
			break
		}
	}
	_ = st.CloseSend()
	for {
		if err := st.RecvMsg(new(emptypb.Empty)); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
