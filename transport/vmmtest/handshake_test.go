package vmmtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

func TestConnectLine(t *testing.T) {
	v, _ := start(t, vmmtest.Config{})
	tests := []struct {
		line string
		ok   bool
	}{
		{"CONNECT 1000\n", true},
		{"connect 1000\n", true},
		{"CoNnEcT 1000\n", true},
		{"CONNECT  1000 \r\n", true},
		{"CONNECT 1000 words\n", true},
		{"CONNECT 0000000000000000001000\n", true},    // 31 bytes
		{"CONNECT 00000000000000000001000\n", true},   // 32
		{"CONNECT 000000000000000000001000\n", false}, // 33
		{"CONNECT 1001\n", false},                     // nobody listens
		{"CONNECT\n", false},
		{"CONNECT \n", false},
		{"CONNECT x\n", false},
		{"CONNECT -1\n", false},
		{"CONNECT 4294968296\n", false}, // 2^32 + 1000
		{"OPEN 1000\n", false},
		{"\n", false},
		{"CONNECT 1000", false}, // and then the end
		{strings.Repeat("x", 100), false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%q", tt.line), func(t *testing.T) {
			c := rawDial(t, v, tt.line)
			if !strings.HasSuffix(tt.line, "\n") {
				c.(interface{ CloseWrite() error }).CloseWrite()
			}
			answer, err := bufio.NewReader(c).ReadString('\n')
			var n uint32
			if tt.ok {
				if _, serr := fmt.Sscanf(answer, "OK %d\n", &n); serr != nil || n < 1<<30 || n >= 1<<31 {
					t.Errorf("answer %q, %v; want OK and a number in [2^30, 2^31)", answer, err)
				}
			} else if answer != "" || err != io.EOF {
				t.Errorf("answer %q, %v; want none and EOF", answer, err)
			}
		})
	}
}

// The payload may follow the line in the same write, although no client of a
// real VMM should do that, and the line may come in pieces.
func TestConnectLineBoundaries(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	c := rawDial(t, v, "CONN")
	mustWrite(t, c, []byte("ECT 10"))
	mustWrite(t, c, []byte("00\nhello"))
	guest, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	mustRead(t, guest, []byte("hello"))
	mustWrite(t, c, []byte(" again"))
	mustRead(t, guest, []byte(" again"))
}

func TestPortsInTurn(t *testing.T) {
	v, l := start(t, vmmtest.Config{FirstPort: 1<<31 - 2})
	want := []uint32{1<<31 - 2, 1<<31 - 1, 1 << 30, 1<<30 + 1}
	for _, port := range want {
		host, guest := pair(t, v, l)
		if got := host.LocalAddr().(transport.Addr).Port; got != port {
			t.Errorf("OK %d, want %d", got, port)
		}
		if got, want := guest.Peer(), (transport.Peer{Network: "vsock", CID: 2, Port: port}); got != want {
			t.Errorf("guest's peer %v, want %v", got, want)
		}
	}
	if _, err := vmmtest.Start(vmmtest.Config{FirstPort: 1 << 31}); err == nil {
		t.Error("a first port of 2^31 was taken")
	}
}

func TestConnectionLimit(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	var first *transport.Conn
	for range 1023 {
		c, _ := pair(t, v, l)
		if first == nil {
			first = c
		}
	}
	_, err := transport.Dial(t.Context(), transport.MuxAddr(v.Path, 1000), nil)
	if !errors.Is(err, transport.ErrVMMClosed) {
		t.Fatalf("connection 1024: %v, want %v", err, transport.ErrVMMClosed)
	}
	if s := v.Stats(); s.Open != 1023 || s.FromHost != 1023 || s.Refused != 1 {
		t.Errorf("stats %+v; want 1023 open, 1023 from the host, 1 refused", s)
	}
	guest, err := v.Dial(t.Context(), 7)
	if !errors.Is(err, transport.ErrNotListening) {
		t.Errorf("the guest's dial: %v, %v", guest, err)
	}
	v.Reset()
	pair(t, v, l)
	if s := v.Stats(); s.Open != 1 || s.Resets != 1023 {
		t.Errorf("stats after a reset %+v; want 1 open, 1023 reset", s)
	}
}

// Every way to answer CONNECT gives transport.Dial the right kind of error, or
// a connection that has lost nothing.
func TestHandshakeFaults(t *testing.T) {
	greeting := []byte("hello, I speak first")
	tests := []struct {
		name    string
		faults  vmmtest.Faults
		want    error         // nil: a connection
		timeout time.Duration // of the dial, where that is what must end it
	}{
		{name: "none"},
		{name: "glued", faults: vmmtest.Faults{Handshake: vmmtest.HandshakeGlued}},
		{name: "bytewise", faults: vmmtest.Faults{Handshake: vmmtest.HandshakeBytewise, HandshakeDelay: time.Millisecond}},
		{name: "delayed", faults: vmmtest.Faults{HandshakeDelay: 20 * time.Millisecond}},
		{
			name:   "delayed too long",
			faults: vmmtest.Faults{HandshakeDelay: time.Hour},
			want:   transport.ErrGuestBooting, timeout: time.Second,
		},
		{
			name:   "silent",
			faults: vmmtest.Faults{Handshake: vmmtest.HandshakeSilent},
			want:   transport.ErrGuestBooting, timeout: time.Second,
		},
		{
			name:   "not accepted",
			faults: vmmtest.Faults{NoAccept: true},
			want:   transport.ErrGuestBooting, timeout: time.Second,
		},
		{name: "refused", faults: vmmtest.Faults{Handshake: vmmtest.HandshakeRefused}, want: transport.ErrVMMClosed},
		{name: "cut", faults: vmmtest.Faults{Handshake: vmmtest.HandshakeCut}, want: transport.ErrVMMClosed},
		{name: "reset", faults: vmmtest.Faults{Handshake: vmmtest.HandshakeReset}, want: transport.ErrVMMClosed},
		{name: "garbage", faults: vmmtest.Faults{Handshake: vmmtest.HandshakeGarbage}, want: transport.ErrBadHandshake},
		{
			name:   "endless garbage",
			faults: vmmtest.Faults{Handshake: vmmtest.HandshakeGarbage, HandshakeText: strings.Repeat("OK ", 1000)},
			want:   transport.ErrBadHandshake,
		},
		{
			name:   "port too large",
			faults: vmmtest.Faults{Handshake: vmmtest.HandshakeGarbage, HandshakeText: "OK 99999999999\n"},
			want:   transport.ErrBadHandshake,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, l := start(t, vmmtest.Config{Faults: tt.faults})
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Write(greeting)
				}
			}()
			timeout := tt.timeout
			if timeout == 0 {
				timeout = patience
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			c, err := transport.Dial(ctx, transport.MuxAddr(v.Path, 1000), nil)
			if !errors.Is(err, tt.want) {
				t.Fatalf("dial: %v, want %v", err, tt.want)
			}
			if tt.timeout != 0 && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("dial: %v, want also the context's error", err)
			}
			if err == nil {
				defer c.Close()
				mustRead(t, c, greeting)
			}
			// The VMM recovers when the fault is gone.
			v.SetFaults(vmmtest.Faults{})
			mustRead(t, dial(t, v), greeting)
		})
	}
}

// Glued and bytewise answers arrive as they are called.
func TestAnswersOnTheWire(t *testing.T) {
	v, l := start(t, vmmtest.Config{Faults: vmmtest.Faults{Handshake: vmmtest.HandshakeGlued}})
	c := rawDial(t, v, "CONNECT 1000\n")
	guest, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, guest, []byte("SETTINGS"))
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if got, want := string(buf[:n]), "OK 1073741824\nSETTINGS"; got != want {
		t.Errorf("first read: %q, %v; want %q", got, err, want)
	}

	// A guest that lets the host speak first delays the answer only.
	v.SetFaults(vmmtest.Faults{Handshake: vmmtest.HandshakeGlued, HandshakeDelay: time.Millisecond})
	c = rawDial(t, v, "CONNECT 1000\n")
	mustRead(t, c, []byte("OK 1073741825\n"))

	v.SetFaults(vmmtest.Faults{Handshake: vmmtest.HandshakeCut})
	c = rawDial(t, v, "CONNECT 1000\n")
	if got, err := io.ReadAll(c); string(got) != "OK 1073" || err != nil {
		t.Errorf("cut answer %q, %v", got, err)
	}

	if resetsShow {
		v.SetFaults(vmmtest.Faults{Handshake: vmmtest.HandshakeReset})
		c = rawDial(t, v, "CONNECT 1000\n")
		if got, err := io.ReadAll(c); len(got) != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset: %q, %v", got, err)
		}
	}
}

func TestNoAcceptResumes(t *testing.T) {
	v, l := start(t, vmmtest.Config{Faults: vmmtest.Faults{NoAccept: true}})
	c := rawDial(t, v, "CONNECT 1000\n")
	mustBeSilent(t, c)
	if s := v.Stats(); s.Accepted != 0 {
		t.Errorf("stats %+v; want none accepted", s)
	}
	v.SetFaults(vmmtest.Faults{})
	mustRead(t, c, []byte("OK 1073741824\n"))
	if _, err := l.Accept(); err != nil {
		t.Error(err)
	}
}

// A paused guest does not answer, and after Firecracker's 2 s, here less, the
// request is refused.
func TestPausedGuestTakesNoConnection(t *testing.T) {
	v, _ := start(t, vmmtest.Config{RequestTimeout: time.Hour})
	v.Pause()
	c := rawDial(t, v, "CONNECT 1000\n")
	mustBeSilent(t, c)
	v.Resume()
	mustRead(t, c, []byte("OK 1073741824\n"))

	v, _ = start(t, vmmtest.Config{RequestTimeout: 10 * time.Millisecond})
	v.Pause()
	c = rawDial(t, v, "CONNECT 1000\n")
	if got, err := io.ReadAll(c); len(got) != 0 || err != nil {
		t.Errorf("read %q, %v; want EOF", got, err)
	}
	if s := v.Stats(); s.Refused != 1 {
		t.Errorf("stats %+v; want 1 refused", s)
	}

	// A request that waits is reset like a connection.
	v, _ = start(t, vmmtest.Config{RequestTimeout: time.Hour})
	v.Pause()
	c = rawDial(t, v, "CONNECT 1000\n")
	wait.For(t, "accepted", func() bool { return v.Stats().Accepted == 1 })
	v.Reset()
	if got, err := readAll(t, c); len(got) != 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %q, %v; want the end", got, err)
	}
}
