package carriers

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// LabEnv is the environment variable that is set inside the lab, where native
// vsock may be used.
const LabEnv = "VSOCKRPC_LAB"

// Dial connects to a listener. It may be called concurrently. The caller
// closes the connection.
type Dial = func(context.Context) (net.Conn, error)

// Carrier is a kind of connection.
type Carrier struct {
	// Name names the carrier in subtests.
	Name string

	// HalfClose says that the connections have CloseRead and CloseWrite, which
	// the other end notices.
	HalfClose bool

	listen func(testing.TB) (net.Listener, Dial, error)
}

// All returns the carriers that can be used here: pipe, unix and vmm, and vsock
// inside the lab.
func All(tb testing.TB) []Carrier {
	tb.Helper()
	all := []Carrier{
		{Name: "pipe", listen: listenPipe},
		{Name: "unix", HalfClose: true, listen: listenUnix},
		{Name: "vmm", HalfClose: true, listen: listenVMM},
	}
	if os.Getenv(LabEnv) != "" {
		all = append(all, Carrier{Name: "vsock", HalfClose: true, listen: listenVsock})
	} else {
		tb.Logf("carriers: no vsock outside the lab (%s is not set)", LabEnv)
	}
	return all
}

// Listen returns a listener, in the guest where there is one, and a function
// that connects to it, from the host. Both serve until the end of the test,
// which closes the listener. It fails the test if it cannot.
func (c Carrier) Listen(tb testing.TB) (net.Listener, Dial) {
	tb.Helper()
	l, dial, err := c.listen(tb)
	if err != nil {
		tb.Fatalf("carrier %s: %v", c.Name, err)
	}
	tb.Cleanup(func() { l.Close() })
	return l, dial
}

// Pair returns the two ends of a new connection, which are closed at the end of
// the test. It fails the test if it cannot.
func (c Carrier) Pair(tb testing.TB) (client, server net.Conn) {
	tb.Helper()
	l, dial := c.Listen(tb)
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	accepted := make(chan error, 1)
	go func() {
		var err error
		server, err = l.Accept()
		accepted <- err
	}()
	client, err := dial(ctx)
	if err != nil {
		l.Close()
		<-accepted
		tb.Fatalf("carrier %s: %v", c.Name, err)
	}
	tb.Cleanup(func() { client.Close() })
	if err := <-accepted; err != nil {
		tb.Fatalf("carrier %s: %v", c.Name, err)
	}
	tb.Cleanup(func() { server.Close() })
	return client, server
}

func listenUnix(tb testing.TB) (net.Listener, Dial, error) {
	// Not TempDir: the name of the test is in it, and a socket's path has room
	// for about 100 bytes.
	dir, err := os.MkdirTemp("", "carrier")
	if err != nil {
		return nil, nil, err
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return listen(tb, transport.UnixAddr(filepath.Join(dir, "s")))
}

func listenVMM(tb testing.TB) (net.Listener, Dial, error) {
	vmm := vmmtest.New(tb)
	l, err := vmm.Listen(transport.AgentPort)
	if err != nil {
		return nil, nil, err
	}
	return l, dialer(transport.MuxAddr(vmm.Path, transport.AgentPort)), nil
}

func listenVsock(tb testing.TB) (net.Listener, Dial, error) {
	return listen(tb, transport.VsockAddr(transport.CIDAny, transport.PortAny))
}

func listen(tb testing.TB, a transport.Addr) (net.Listener, Dial, error) {
	l, err := transport.Listen(tb.Context(), a, nil)
	if err != nil {
		return nil, nil, err
	}
	bound, ok := l.Addr().(transport.Addr)
	if !ok {
		l.Close()
		return nil, nil, fmt.Errorf("address %v is a %T", l.Addr(), l.Addr())
	}
	if bound.Net == transport.NetworkVsock {
		bound.CID = transport.CIDLocal
	}
	return l, dialer(bound), nil
}

func dialer(a transport.Addr) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		c, err := transport.Dial(ctx, a, nil)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

// A pipeListener accepts the other ends of net.Pipe.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func listenPipe(testing.TB) (net.Listener, Dial, error) {
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	return l, l.dial, nil
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	var err error
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: l.Addr(), Err: err}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "pipe", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (*pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
