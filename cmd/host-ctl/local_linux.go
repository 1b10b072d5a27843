package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/process"
)

// maybeRunLauncher is what the embedded agent needs first in main.
func maybeRunLauncher() { process.MaybeRunLauncher() }

// localAgent is the agent of the guest "local": inside this process, as its
// user, and reached by nobody else.
type localAgent struct {
	agent    *agent.Agent
	listener *pairListener
	served   chan error
}

func startLocal(log *slog.Logger) (*localAgent, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a, err := agent.New(&agent.Config{Logger: log.With("agent", "local"), Access: access.Rules{Mode: access.ModeEmbedded}})
	if err != nil {
		return nil, fmt.Errorf("embedded agent: %w", err)
	}
	l := &localAgent{agent: a, listener: newPairListener(), served: make(chan error, 1)}
	go func() { l.served <- a.Serve(l.listener) }()
	return l, nil
}

// dial makes a connection to the agent.
func (l *localAgent) dial(ctx context.Context) (net.Conn, error) { return l.listener.dial(ctx) }

// close ends the agent with its sessions.
func (l *localAgent) close() {
	l.agent.Close()
	<-l.served
}

// pairListener is a net.Listener whose connections are socket pairs: real
// sockets, which cost less than pipes in memory do, and no name that another
// process could find.
type pairListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

var _ net.Listener = (*pairListener)(nil)

func newPairListener() *pairListener {
	return &pairListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pairListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("embedded agent: %w", err)
	}
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.done:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	ours.Close()
	theirs.Close()
	return nil, err
}

// Accept returns the other end of the next dial.
func (l *pairListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and dial. Connections stay.
func (l *pairListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr says that there is none.
func (l *pairListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "local"} }

// socketPair returns the ends of a connected pair of Unix sockets.
func socketPair() (net.Conn, net.Conn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	a, err := fileConn(fds[0])
	if err != nil {
		syscall.Close(fds[1])
		return nil, nil, err
	}
	b, err := fileConn(fds[1])
	if err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// fileConn makes a connection of a descriptor, which it takes over.
func fileConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	return net.FileConn(f)
}
