package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/transport"
)

func (c *cli) proxyCommand() *cobra.Command {
	f := &forwarder{cli: c, limit: maxForwarded}
	var socket string
	cmd := &cobra.Command{
		Use:   "proxy [flags] GUEST PORT|HOST:PORT|/path\n  host-ctl proxy [flags] GUEST --grpc unix:/path",
		Short: "Connect stdin and stdout to a socket of a guest, or a Unix socket to its agent",
		Long: `Connect stdin and stdout to a socket inside the guest: a port of its localhost,
HOST:PORT as the guest sees them, or a Unix socket. The end of stdin ends that
direction of the connection alone. For ssh:

  ssh -o ProxyCommand="host-ctl proxy %h %p" 3

With --grpc, listen on a Unix socket for this user alone, and carry each
connection to the agent of the guest, until interrupted. So grpcurl, and gRPC
clients in any language, reach a guest.`,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(f.format); err != nil {
				return err
			}
			operands := 1
			if socket != "" {
				operands = 0
			}
			target, rest, err := guestArg(args, operands, operands)
			if err != nil {
				return err
			}
			if socket != "" {
				path, err := grpcSocket(socket)
				if err != nil {
					return err
				}
				return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
					f.guest = g
					return f.run(ctx, []forwardSpec{{network: "unix", listen: endpoint{"unix", path}, target: agentItself}})
				})
			}
			at, err := parseTarget(rest[0])
			if err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				f.guest = g
				conn, err := f.dialGuest(ctx, at)
				if err != nil {
					return socketError{err}
				}
				return c.joinStdio(ctx, conn)
			})
		},
	}
	outputFlag(cmd, &f.format)
	cmd.Flags().StringVar(&socket, "grpc", "", "the Unix socket to listen on, for connections to the agent")
	return cmd
}

// joinStdio relays between stdin and stdout and conn until both directions have
// ended, or either breaks. It closes conn.
func (c *cli) joinStdio(ctx context.Context, conn net.Conn) error {
	defer breakOff(conn)
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, struct{ io.Reader }{c.stdin})
		if err == nil {
			err = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	go func() {
		_, err := io.Copy(c.stdout, conn)
		if out, ok := c.stdout.(io.Closer); ok && err == nil {
			err = out.Close()
		}
		received <- err
	}()
	for sent != nil || received != nil {
		var err error
		select {
		case err = <-sent:
			sent = nil
			if _, ok := errors.AsType[*net.OpError](err); ok && received != nil {
				// The connection cannot be written to: what it still has to
				// say comes first, and says why.
				err = nil
			}
		case err = <-received:
			received = nil
			if err == nil && term.IsTerminal(int(c.stdin.Fd())) {
				return nil // nobody would end the input
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return quietPipe(err)
		}
	}
	// This process is about to end: what was written has to arrive before.
	if l, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		l.SetLinger(int(dialTimeout / time.Second))
	}
	return conn.Close()
}

// grpcSocket returns the path of the operand of --grpc.
func grpcSocket(s string) (string, error) {
	if !strings.Contains(s, ":") {
		s = transport.NetworkUnix + ":" + s
	}
	addr, err := transport.ParseAddr(s)
	if err != nil {
		return "", usageError{fmt.Errorf("--grpc: %w", err)}
	}
	if addr.Net != transport.NetworkUnix {
		return "", usageError{fmt.Errorf("--grpc %s: want unix:/path", s)}
	}
	return addr.Path, nil
}
