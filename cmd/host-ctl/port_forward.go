package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/localhost"
	"github.com/vsockrpc/vsockrpc/transport"
)

// maxForwarded is how many connections a port-forward carries at most, if no
// flag says so.
const maxForwarded = 1024

// keepForwarding has a guest that was lost listen again whenever it comes back.
const keepForwarding = 100 * 365 * 24 * time.Hour

// maxBuffered bounds what is held of connections that nobody reads, by them and by the
// connection to the guest each.
const maxBuffered = 8 << 20

func (c *cli) portForwardCommand() *cobra.Command {
	f := &forwarder{cli: c}
	cmd := &cobra.Command{
		Use:   "port-forward [flags] GUEST [[ADDR:]LOCAL:]REMOTE...",
		Short: "Make sockets of a guest reachable here, or the reverse",
		Long: `Listen on this machine, and carry each connection to a socket of the guest, until
interrupted.

  8080:80             port 8080 here, port 80 of the guest's localhost
  80                  the same port on both
  :80                 any free port here, which is printed
  5432:db:5432        a host and a port as the guest sees them
  0.0.0.0:8080:80     listen on this address rather than that of --address
  8000-8009:9000-9009 ranges of ports, equally long
  5353:53/udp         datagrams, for each sender a socket in the guest
  8080:/run/app.sock  a Unix socket of the guest
  /tmp/app.sock:80    a Unix socket here, for this user alone

With --reverse the guest listens on [ADDR:]LOCAL, and this machine connects to
REMOTE, and to nothing else, for each connection that is made there.

As with ssh, -L and -R each name one forward, from here and from the guest, and -D
makes a SOCKS 5 proxy whose connections are made by the guest, which looks up the
names too. "localhost" is 127.0.0.1 and ::1, on either side.

If one of them cannot be listened on, none is forwarded. When the connection to
the guest is lost, those it carried break, and new ones are carried as soon as
the guest can be reached again.`,
		Example: `  host-ctl port-forward web 8080:80
  host-ctl port-forward web :5432 -R 9000:localhost:3000
  host-ctl port-forward web -D 1080 & curl -x socks5h://localhost:1080 http://intranet/`,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(f.format); err != nil {
				return err
			}
			min := 1
			if len(f.local)+len(f.remote)+len(f.dynamic) > 0 {
				min = 0
			}
			target, rest, err := guestArg(args, min, -1)
			if err != nil {
				return err
			}
			if f.limit < 1 {
				return usageError{fmt.Errorf("--max-connections %d: want 1 or more", f.limit)}
			}
			if err := f.socket.parse(); err != nil {
				return err
			}
			specs, err := f.parse(rest)
			if err != nil {
				return err
			}
			c.reconnect = keepForwarding
			c.buffered = maxBuffered
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				f.guest = g
				return f.run(ctx, specs)
			})
		},
	}
	outputFlag(cmd, &f.format)
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.local, "local", "L", nil, "forward [[ADDR:]LOCAL:]REMOTE from here to the guest")
	flags.StringArrayVarP(&f.remote, "remote", "R", nil, "forward [[ADDR:]LOCAL:]REMOTE from the guest to here")
	flags.StringArrayVarP(&f.dynamic, "dynamic", "D", nil, "a SOCKS 5 proxy on [ADDR:]PORT here that connects from the guest")
	flags.StringSliceVar(&f.addresses, "address", []string{"127.0.0.1"}, "addresses to listen on; * for all")
	flags.BoolVar(&f.reverse, "reverse", false, "listen in the guest, and connect to REMOTE from here")
	flags.StringVar(&f.socket.mode, "socket-mode", "", "permissions of Unix sockets that are made, here or in the guest, such as 0660 (default here 0600, in the guest 0755, with which its owner alone may connect)")
	flags.StringVar(&f.socket.owner, "socket-owner", "", "USER[:GROUP] of Unix sockets that are made in the guest (default the agent's)")
	flags.IntVar(&f.limit, "max-connections", maxForwarded, "how many connections to carry at most")
	return cmd
}

// forwarder carries connections between listeners and targets, one side of which
// is a guest's.
type forwarder struct {
	cli       *cli
	guest     *guest.Guest
	format    string
	reverse   bool
	limit     int
	addresses []string

	local, remote, dynamic []string // -L, -R, -D
	socket                 socketFlags

	slots   chan struct{} // one held for each connection
	running sync.WaitGroup
	print   sync.Mutex
}

// parse parses the arguments after GUEST and the forwards that flags name.
func (f *forwarder) parse(args []string) ([]forwardSpec, error) {
	var specs []forwardSpec
	add := func(args []string, reverse bool, parse func(arg string, usual []string) ([]forwardSpec, error)) error {
		for _, arg := range args {
			of, err := parse(arg, f.addresses)
			if err != nil {
				return err
			}
			if reverse && of[0].network == "udp" {
				return usageError{fmt.Errorf("%q: datagrams do not go with --reverse", arg)}
			}
			for _, s := range of {
				s.reverse = reverse
				specs = append(specs, s)
			}
		}
		return nil
	}
	err := cmp.Or(add(args, f.reverse, parseForward), add(f.local, false, parseForward),
		add(f.remote, true, parseForward), add(f.dynamic, false, parseDynamic))
	if err != nil {
		return nil, err
	}
	return specs, distinct(specs)
}

// distinct says which address more than one forward would listen on.
func distinct(specs []forwardSpec) error {
	type place struct {
		reverse bool
		endpoint
	}
	taken := make(map[place]bool)
	for _, s := range specs {
		p := place{s.reverse, s.listen}
		if taken[p] && !strings.HasSuffix(s.listen.addr, ":0") {
			return usageError{fmt.Errorf("two forwards would listen on %s", s.listen)}
		}
		taken[p] = true
	}
	return nil
}

// run forwards until ctx is done, whose error it returns.
func (f *forwarder) run(ctx context.Context, specs []forwardSpec) error {
	ctx, cancel := context.WithCancel(ctx)
	defer f.running.Wait()
	defer cancel()
	f.slots = make(chan struct{}, f.limit)
	type forward struct {
		spec  forwardSpec
		at    io.Closer
		serve func() error
	}
	var forwards []forward
	defer func() {
		for _, fw := range forwards {
			fw.at.Close()
		}
	}()
	for _, s := range specs {
		l, serve, err := f.open(ctx, s)
		if s.optional && isAbsent(err) {
			continue
		}
		if err != nil {
			return socketError{fmt.Errorf("nothing is forwarded: %w", err)}
		}
		forwards = append(forwards, forward{s, l, serve})
	}
	failed := make(chan error, len(forwards))
	for _, fw := range forwards {
		if err := f.announce(fw.spec, fw.at); err != nil {
			return err
		}
		f.running.Go(func() { failed <- fw.serve() })
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-failed:
		return err
	}
}

// isAbsent reports whether err says that there is no such address here, or in the
// guest.
func isAbsent(err error) bool {
	if e, ok := errors.AsType[*guest.Error](err); ok {
		return e.Reason == "bad-address"
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// socketError is about a socket, not about a command, the absence of which has
// an exit code of its own.
type socketError struct{ error }

func (e socketError) Unwrap() error { return e.error }

// open listens for s. The function returned serves until the listener, which
// run closes, or ctx ends.
func (f *forwarder) open(ctx context.Context, s forwardSpec) (io.Closer, func() error, error) {
	n := &notices{w: f.cli.stderr, about: s.listen.String()}
	if s.reverse {
		l, err := f.guest.ListenWith(ctx, s.listen.network, s.listen.addr, f.socket.inGuest(s.listen.network))
		if err != nil {
			return nil, nil, err
		}
		return l, func() error {
			return f.serve(ctx, l, n, func(ctx context.Context, _ net.Conn) (net.Conn, error) {
				return localhost.Dial(ctx, &net.Dialer{Timeout: dialTimeout}, s.target.network, s.target.addr)
			})
		}, nil
	}
	if s.network == "udp" {
		pc, err := new(net.ListenConfig).ListenPacket(ctx, "udp", s.listen.addr)
		if err != nil {
			return nil, nil, err
		}
		u := newUDPForward(f, pc.(*net.UDPConn), s.target, n)
		return pc, func() error { return u.serve(ctx) }, nil
	}
	var l net.Listener
	var err error
	if s.listen.network == "unix" {
		// A stale socket is replaced; the file goes with the listener.
		l, err = transport.Listen(ctx, transport.UnixAddr(s.listen.addr), &transport.ListenConfig{Mode: f.socket.here()})
	} else {
		l, err = new(net.ListenConfig).Listen(ctx, s.listen.network, s.listen.addr)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w (leave LOCAL empty for any free port)", err)
	}
	if err != nil {
		return nil, nil, err
	}
	return l, func() error {
		return f.serve(ctx, l, n, func(ctx context.Context, conn net.Conn) (net.Conn, error) {
			if s.target == socksTarget {
				return f.dialSocks(ctx, conn)
			}
			return f.dialGuest(ctx, s.target)
		})
	}, nil
}

// dialTimeout bounds a dial: the client has its connection already, and waits.
const dialTimeout = 10 * time.Second

func (f *forwarder) dialGuest(ctx context.Context, e endpoint) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if e == agentItself {
		return f.guest.DialAgent(ctx)
	}
	return f.guest.DialContext(ctx, e.network, e.addr)
}

// dialFor makes the connection that conn, which was accepted, is relayed to.
type dialFor func(ctx context.Context, conn net.Conn) (net.Conn, error)

// serve accepts connections of l until it fails or ctx ends, and relays each to
// one of dial.
func (f *forwarder) serve(ctx context.Context, l net.Listener, n *notices, dial dialFor) error {
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			return ctx.Err()
		}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
			n.say(err)
			if sleep(ctx, 100*time.Millisecond) != nil { // until others have closed theirs
				return ctx.Err()
			}
			continue
		}
		if err != nil {
			return err
		}
		select {
		case f.slots <- struct{}{}:
		default:
			n.say(fmt.Errorf("refused: %d connections are open (--max-connections)", cap(f.slots)))
			breakOff(conn)
			continue
		}
		f.running.Go(func() {
			defer func() { <-f.slots }()
			f.carry(ctx, conn, n, dial)
		})
	}
}

// carry relays one connection.
func (f *forwarder) carry(ctx context.Context, conn net.Conn, n *notices, dial dialFor) {
	defer context.AfterFunc(ctx, func() { breakOff(conn) })()
	other, err := dial(ctx, conn)
	if err != nil {
		if ctx.Err() == nil {
			n.say(err)
		}
		breakOff(conn)
		return
	}
	defer context.AfterFunc(ctx, func() { breakOff(other) })()
	err = guest.Relay(conn, other)
	if log := f.cli.logger(); log != nil {
		log.Debug("connection ended", "to", other.RemoteAddr(), "error", err)
	}
}

// breakOff closes a connection such that its peer does not take it for ended in
// order.
func breakOff(conn net.Conn) {
	switch c := conn.(type) {
	case *net.TCPConn:
		c.SetLinger(0)
	case interface{ Reset() error }:
		c.Reset()
	}
	conn.Close()
}

// forwarded is a forward as -o json has it. Fields are only ever added.
type forwarded struct {
	Network string `json:"network"`
	Listen  string `json:"listen"`
	Guest   string `json:"guest"`
	Target  string `json:"target"`
	Reverse bool   `json:"reverse,omitempty"`
}

// announce prints what is forwarded.
func (f *forwarder) announce(s forwardSpec, l io.Closer) error {
	fw := forwarded{Network: s.network, Guest: f.guest.Target(), Target: s.target.String(), Reverse: s.reverse}
	switch l := l.(type) {
	case interface{ Addr() net.Addr }:
		fw.Listen = l.Addr().String()
	case net.PacketConn:
		fw.Listen = l.LocalAddr().String()
	}
	if s.listen.network == "unix" {
		fw.Listen = s.listen.addr
	}
	return f.write(fw)
}

func (f *forwarder) write(fw forwarded) error {
	f.print.Lock()
	defer f.print.Unlock()
	if f.format == "json" {
		return writeJSON(f.cli.stdout, fw)
	}
	from, to := fw.Listen, fw.Guest+" "+fw.Target
	if fw.Reverse {
		from, to = fw.Guest+" "+fw.Listen, fw.Target
	}
	if fw.Network == "udp" {
		to += "/udp"
	}
	_, err := fmt.Fprintf(f.cli.stdout, "Forwarding %s -> %s\n", visibleLine(from), visibleLine(to))
	return quietPipe(err)
}

// sleep waits, or returns the error of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
