package guest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// Guest is a guest whose agent has answered. Its methods may be called
// concurrently. It keeps one connection, which is made anew when it is lost.
type Guest struct {
	target    string
	user      string
	dialer    *dialer
	identity  *identity
	link      *link
	conn      grpc.ClientConnInterface // of the link: bounded, and with interceptors
	agent     guestv1.AgentServiceClient
	process   guestv1.ProcessServiceClient
	reconnect time.Duration
	log       *slog.Logger
	closed    chan struct{}
	closeOnce sync.Once

	hooks   *hooks
	tunnels held // what tunnels hold that nobody has read

	mu       sync.Mutex
	info     *guestv1.InfoResponse // the last
	infoDial int                   // how many connections there had been when it came
	first    *guestv1.InfoResponse // by which the guest is known again
	live     map[*session]bool     // whose run has not returned
}

// Dial connects to the agent of a guest and returns when it has answered. A nil
// cfg means the defaults. The target is one of
//
//	vsock:CID:PORT         native vsock; without :PORT the agent's own port
//	CID                    a number, short for vsock:CID
//	vsock-mux:/path:PORT   the Unix socket of a VMM
//	unix:/path             a Unix socket
//	NAME                   a guest of the configuration file
//	USER@TARGET            any of these; commands and files are USER's
//
// It makes one attempt, which ctx bounds: a program that waits for a guest to
// boot calls it again while [Temporary] says that this may help. An agent that
// does not trust this caller answers all the same; [Guest.Info] says so.
//
// The error is an [*Error]. The caller must Close the guest.
func Dial(ctx context.Context, target string, cfg *Config) (*Guest, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	g := &Guest{target: target, reconnect: cfg.reconnect(), log: cfg.logger().With("guest", target), closed: make(chan struct{})}
	g.tunnels.most = int64(cfg.maxBuffered())
	g.hooks = &hooks{guest: g, onConnect: cfg.OnConnect, onLost: cfg.OnLost}
	g.dialer = &dialer{config: cfg, log: g.log}
	_, name := SplitUser(target)
	if cfg.Dialer == nil {
		addr, user, err := Resolve(target, cfg.File)
		if err != nil {
			return nil, &Error{Op: "dial", Guest: target, Code: codes.InvalidArgument, Reason: ReasonBadTarget, message: err.Error(), err: err}
		}
		g.dialer.addr, g.user = addr, user
	}
	if cfg.User != "" {
		g.user = cfg.User
	}
	g.identity = &identity{trust: cfg.Trust}
	if cfg.Dialer == nil && checkName(name) == nil {
		g.identity.name = name
	}
	tc, err := g.identity.tlsConfig(cfg.TLS)
	g.link = &link{guest: g, tls: tc, dialer: g.dialer}
	if err == nil {
		_, err = g.link.take()
	}
	if err != nil {
		return nil, &Error{Op: "dial", Guest: target, Code: codes.InvalidArgument, Reason: ReasonBadTarget, message: err.Error(), err: err}
	}
	g.conn = intercept(bounded{g.link}, cfg)
	g.agent = guestv1.NewAgentServiceClient(g.conn)
	g.process = guestv1.NewProcessServiceClient(g.conn)
	if _, err := g.askInfo(ctx); err != nil {
		g.link.Close()
		err = g.wrapInfo(err)
		var e *Error
		if errors.As(err, &e) {
			e.Op = "dial"
			g.silent(e)
		}
		return nil, err
	}
	g.identity.keep()
	if err := g.identity.pin(); err != nil {
		g.log.Warn("the guest's key could not be kept", "error", err)
	}
	g.hooks.start()
	return g, nil
}

// silent fills e in if the agent has said nothing at all, whether ctx or an attempt to
// connect was over first: what e says by itself is that, or that the connection ended.
func (g *Guest) silent(e *Error) {
	if e.Reason != ReasonTimeout && e.Reason != ReasonUnreachable {
		return
	}
	over := e.Reason == ReasonTimeout
	for _, late := range []error{context.DeadlineExceeded, net.ErrClosed, io.ErrClosedPipe} {
		// The RPC layers close connections that are late, and have the text alone.
		over = over || strings.Contains(e.message, late.Error()) || strings.Contains(e.message, "said nothing")
	}
	switch {
	case g.dialer.count() > 0 && over:
		e.Reason, e.message = ReasonNoAnswer, "something took the connection, but no agent has answered on it in time"
	case g.dialer.count() > 0:
		e.Reason, e.message = ReasonNoAnswer, "something took the connection, and ended it without an answer: "+e.message
	case over:
		e.Reason, e.message = ReasonGuestBooting, "the guest did not let itself be connected to in time"
	default:
		return
	}
	e.Remedy = "the guest may be paused, or still booting, or have no guest-agent running: look at its VMM and console, or give it more time (host-ctl wait)"
}

// Temporary reports whether an error of Dial may go away by itself, as while a
// guest boots: the same call may succeed later. A lost session does not come back.
func Temporary(err error) bool {
	if te, ok := errors.AsType[*transport.Error](err); ok {
		return te.Temporary()
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Reason == ReasonSessionLost || e.Reason == ReasonAgentRestarted {
		return false
	}
	return e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded
}

// Target returns the target given to Dial.
func (g *Guest) Target() string { return g.target }

// Conn returns the connection, for the generated clients of the agent's
// services and of services of others on the agent's port. It is closed by
// Close. How much memory an answer takes is bounded by its length alone there. Its
// calls go through the interceptors of the Config, and are never repeated.
func (g *Guest) Conn() grpc.ClientConnInterface { return intercept(g.link, g.dialer.config) }

// Info asks the agent for its description. A caller that the agent does not
// trust gets the versions and the Access only.
func (g *Guest) Info(ctx context.Context) (*guestv1.InfoResponse, error) {
	var info *guestv1.InfoResponse
	err := g.persist(ctx, "info", guestv1.AgentService_Info_FullMethodName, func() (err error) {
		info, err = g.askInfo(ctx)
		return err
	})
	return info, err
}

func (g *Guest) wrapInfo(err error) error {
	return g.wrap("info", guestv1.AgentService_Info_FullMethodName, err)
}

func (g *Guest) askInfo(ctx context.Context) (*guestv1.InfoResponse, error) {
	info, err := g.agent.Info(ctx, &guestv1.InfoRequest{})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// know keeps the description that the agent has given of itself on the connection made
// last.
func (g *Guest) know(info *guestv1.InfoResponse) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.info, g.infoDial = info, g.dialer.count()
}

// met returns the description of the agent that this guest has a connection to
// now. It asks for it if the connection was made anew since it was asked last.
func (g *Guest) met(ctx context.Context) (*guestv1.InfoResponse, error) {
	g.mu.Lock()
	info, known := g.info, g.infoDial == g.dialer.count()
	g.mu.Unlock()
	if known {
		return info, nil
	}
	return g.askInfo(ctx)
}

// cachedInfo returns the last description of the agent, or nil.
func (g *Guest) cachedInfo() *guestv1.InfoResponse {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.info
}

// The agent's words for guestv1.CloseOutput, and for the mode and owner of sockets.
const (
	capabilityCloseOutput = "close-output"
	capabilitySocketOwner = "socket-owner"
)

// can reports whether the agent has a capability, as far as it has said so.
func (g *Guest) can(capability string) bool {
	for _, c := range g.cachedInfo().GetCapabilities() {
		if c.GetName() == capability {
			return c.GetEnabled()
		}
	}
	return false
}

// Close closes the connection. Commands that run end with an error on this
// side; in the guest their sessions end as if the connection had been lost.
// Close may be called more than once.
func (g *Guest) Close() error {
	var err error
	g.closeOnce.Do(func() {
		g.settle()
		close(g.closed)
		g.hooks.stop()
		err = g.link.Close()
	})
	return err
}

func (g *Guest) track(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.live == nil {
		g.live = make(map[*session]bool)
	}
	g.live[s] = true
}

func (g *Guest) untrack(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.live, s)
}

// settle waits until the agent knows of the ends that this side has consumed,
// so that it need not keep them, or until that takes too long.
func (g *Guest) settle() {
	g.mu.Lock()
	var ending []*session
	for s := range g.live {
		if s.consumed() {
			ending = append(ending, s)
		}
	}
	g.mu.Unlock()
	timeout := time.NewTimer(leaveTimeout)
	defer timeout.Stop()
	for _, s := range ending {
		select {
		case <-s.settled:
		case <-timeout.C:
			return
		}
	}
}

// dialer makes the connections of a guest and keeps the last failure, of which
// the RPC layer passes on the text alone.
type dialer struct {
	config *Config
	addr   transport.Addr
	log    *slog.Logger

	mu    sync.Mutex
	err   *transport.Error
	dials int // that made a connection
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	start := time.Now()
	conn, err := d.connect(ctx)
	d.mu.Lock()
	d.err = nil
	if errors.As(err, &d.err); err == nil {
		d.dials++
	}
	d.mu.Unlock()
	if err != nil {
		d.log.Debug("dial failed", "address", d.addr, "after", time.Since(start).Round(time.Millisecond), "error", err)
		return nil, err
	}
	d.log.Debug("connected", "address", d.addr, "after", time.Since(start).Round(time.Microsecond))
	return conn, nil
}

func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	if d.config.Dialer != nil {
		return d.config.Dialer(ctx)
	}
	d.log.Debug("dialing", "address", d.addr)
	privileged := d.addr.Net == transport.NetworkVsock && d.config.PrivilegedPort != PrivilegedPortNever
	conn, err := transport.Dial(ctx, d.addr, &transport.DialConfig{PrivilegedPort: privileged})
	if err != nil && privileged && d.config.PrivilegedPort == PrivilegedPortAuto && errors.Is(err, transport.ErrPermission) {
		d.log.Debug("no privilege for a port below 1024: dialing from an ordinary one", "address", d.addr)
		conn, err = transport.Dial(ctx, d.addr, nil)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// count returns how many connections were made.
func (d *dialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// lastError returns why the last dial failed, or nil if it did not.
func (d *dialer) lastError() *transport.Error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
