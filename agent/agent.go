//go:build linux

package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/audit"
	"github.com/vsockrpc/vsockrpc/agent/clock"
	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/agent/forward"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/internal/system"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// ProtocolVersion is InfoResponse.protocol_version: it grows by one with each
// change of the protocol that a caller may need to know of.
const ProtocolVersion = 1

// Config says how an agent is. The zero value of every field is its default.
type Config struct {
	// Version is the software version that Info tells. Default: that of the
	// module in the program's build information.
	Version string
	// Logger gets the agent's records. Default: slog.Default().
	Logger *slog.Logger
	// Access says who may call. The zero value is the strictest: the host's
	// root on vsock, root on Unix sockets.
	Access access.Rules
	// Key is the agent's own key, by which hosts know it. Default: one that is
	// made for this run.
	Key ed25519.PrivateKey
	// CurrentKey, if not nil, returns the agent's own key as it is now, or nil for
	// Key. It is called with every connection that speaks TLS, and concurrently. It is
	// for a key in a file that another may be mounted over.
	CurrentKey func() ed25519.PrivateKey
	// Hosts are the keys of hosts that may call. Default: none, and what
	// callers add stays for this run.
	Hosts *access.Hosts
	// RequireKeys trusts nobody who shows no key of Hosts (or no certificate,
	// with TLS), whoever it is by the connection.
	RequireKeys bool
	// TLS, if not nil, is the configuration for clients that speak TLS, in the
	// place of one with Key. Clients that its ClientCAs vouch for are trusted; a
	// policy knows them by their first URI or their common name. That takes a
	// ClientAuth of VerifyClientCertIfGiven or RequireAndVerifyClientCert: a
	// certificate that nobody has verified is none. Clients without TLS are
	// served too, as Access says, unless RequireKeys is set.
	TLS *tls.Config
	// Policy says what trusted callers may do. Default: everything, or what the
	// role of their key in Hosts says.
	Policy *policy.File
	// Locked, if not empty, says why it is not known who may call, such as a setting
	// that is wrong. Then every call but those of health fails with
	// FailedPrecondition, the word misconfigured, and this text.
	Locked string
	// RecheckInterval is how often Hosts and Policy are looked at while anybody is
	// connected. What they do not allow any more ends soon after: calls at the next
	// look, and connections of callers who are not known any more. Default: 500 ms.
	RecheckInterval time.Duration
	// Audit gets a record of each call. Default: none. The caller closes it,
	// after the agent.
	Audit *audit.Log
	// UnaryInterceptors and StreamInterceptors see the calls that the agent lets
	// through, of its services and of those of RegisterService, on either wire; the
	// first is outermost. A call that is refused does not reach them, or, if it is a
	// stream and the policy refuses what it asks for, fails in its first RecvMsg: Audit
	// has all of them. Of streams some messages are not protobuf messages.
	UnaryInterceptors  []grpc.UnaryServerInterceptor
	StreamInterceptors []grpc.StreamServerInterceptor
	// StatsHandlers are told of every call, of strangers too, and of every connection,
	// with the size of each message, as gRPC's stats handlers are. They must not
	// block.
	StatsHandlers []stats.Handler
	// Machine says that the agent is that of a whole machine, as guest-agent is, and not
	// part of a program: callers who may do everything set the clock of the machine.
	// Default: such calls fail with the word embedded-agent.
	Machine bool
	// Process configures the process service. Its AgentID is set by New, its
	// Logger if it has none.
	Process *process.Config
	// File configures the file service. Its Logger is set if it has none.
	File *file.Config
}

// Agent is a set of services and who may call them. It is made by New; its
// methods are safe for concurrent use, but services have to be registered
// before the first Serve.
type Agent struct {
	id      string
	version string
	log     *slog.Logger
	rules   access.Rules
	server  *rpc.Server
	health  *health.Server
	process *process.Server
	file    *file.Server
	guard   *guard
	ownKey  func() ed25519.PrivateKey
	facts   system.Known

	mu           sync.Mutex
	capabilities []*guestv1.Capability

	closeOnce sync.Once
	closeErr  error
}

var _ reflection.GRPCServer = (*Agent)(nil)

// New makes an agent with all services of this module. A nil cfg means the
// defaults. The caller must end it with Shutdown or Close.
func New(cfg *Config) (*Agent, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	a := &Agent{
		version: cfg.Version,
		log:     cfg.Logger,
		rules:   cfg.Access,
		health:  health.NewServer(),
	}
	a.facts.Read("/") // while there are descriptors
	if a.version == "" {
		a.version = BuildVersion()
	}
	if a.log == nil {
		a.log = slog.Default()
	}
	var id [16]byte
	rand.Read(id[:])
	a.id = hex.EncodeToString(id[:])

	if err := a.secure(cfg); err != nil {
		return nil, err
	}

	pc := process.Config{}
	if cfg.Process != nil {
		pc = *cfg.Process
	}
	pc.AgentID = a.id
	if pc.Logger == nil {
		pc.Logger = a.log
	}
	a.process = process.NewServer(&pc)
	a.guard.sessionOwner = a.process.Owner

	fc := file.Config{}
	if cfg.File != nil {
		fc = *cfg.File
	}
	if fc.Logger == nil {
		fc.Logger = a.log
	}
	var err error
	if a.file, err = file.NewServer(&fc); err != nil {
		return nil, errors.Join(err, a.process.Close())
	}

	a.AddCapability(&guestv1.Capability{Name: "exec", Enabled: true})
	a.AddCapability(&guestv1.Capability{Name: "sessions", Enabled: true})
	a.AddCapability(&guestv1.Capability{Name: "files", Enabled: true})
	a.AddCapability(&guestv1.Capability{Name: "forward", Enabled: true})
	a.AddCapability(&guestv1.Capability{Name: "close-output", Enabled: true})
	a.AddCapability(&guestv1.Capability{Name: "socket-owner", Enabled: true})
	a.AddCapability(&guestv1.Capability{Name: "keys", Enabled: true})
	a.AddCapability(&guestv1.Capability{Name: "policy", Enabled: true})
	a.AddCapability(clockCapability(cfg.Machine))
	guestv1.RegisterAgentServiceServer(a, &infoService{agent: a})
	guestv1.RegisterProcessServiceServer(a, a.process)
	guestv1.RegisterFileServiceServer(a, a.file)
	guestv1.RegisterForwardServiceServer(a, forward.NewServer(&forward.Config{Logger: a.log}))
	guestv1.RegisterClockServiceServer(a, clock.NewServer(&clock.Config{Machine: cfg.Machine, Logger: a.log}))
	guestv1.RegisterAccessServiceServer(a, &accessService{guard: a.guard})
	guestv1.RegisterControlServiceServer(a, &controlService{agent: a})
	healthv1.RegisterHealthServer(a, a.health)
	reflection.Register(a)
	return a, nil
}

// clockCapability says whether the clock can be set.
func clockCapability(machine bool) *guestv1.Capability {
	c := &guestv1.Capability{Name: "set-clock", Enabled: machine}
	if !machine {
		c.Reason = "the agent is part of another program"
	}
	return c
}

// ID returns the random id of this run of the agent.
func (a *Agent) ID() string { return a.id }

// Version returns the software version that Info tells.
func (a *Agent) Version() string { return a.version }

// RegisterService adds a service, which is what the Register functions of
// generated code call. It must not be called after the first Serve. Only
// trusted callers reach the service. Health tells that it is serving.
func (a *Agent) RegisterService(desc *grpc.ServiceDesc, impl any) {
	a.server.RegisterService(desc, impl)
	a.health.SetServingStatus(desc.ServiceName, healthv1.HealthCheckResponse_SERVING)
}

// GetServiceInfo returns the registered services by name.
func (a *Agent) GetServiceInfo() map[string]grpc.ServiceInfo { return a.server.GetServiceInfo() }

// SetServing says whether a service that was registered works, for those who
// ask its health. A new service does.
func (a *Agent) SetServing(service string, serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	a.health.SetServingStatus(service, status)
}

// AddCapability adds to, or replaces in, what Info tells that the agent can do.
// The agent keeps c, which must not be changed afterwards.
func (a *Agent) AddCapability(c *guestv1.Capability) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, old := range a.capabilities {
		if old.GetName() == c.GetName() {
			a.capabilities[i] = c
			return
		}
	}
	a.capabilities = append(a.capabilities, c)
}

// Serve answers calls on connections of l until l fails or the agent ends, and
// closes l. It may be called for several listeners at a time. Connections of
// peers that may not call at all are closed as they come.
//
// The error is nil after Shutdown or Close.
func (a *Agent) Serve(l net.Listener) error { return a.ServeFace(l, access.FaceAll) }

// ServeFace is Serve with a listener that offers but a part of the methods, so
// that, say, the control services have a port of their own:
//
//	go a.ServeFace(port1000, access.FaceUser)
//	go a.ServeFace(port1001, access.FaceControl)
//
// Services of other programs are on neither face.
func (a *Agent) ServeFace(l net.Listener, face access.Face) error {
	err := a.server.Serve(&guardedListener{Listener: l, guard: a.guard, face: face})
	if err == nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// lastAnswers is how long what was answered last has to leave before connections
// are closed under calls that do not end.
const lastAnswers = 200 * time.Millisecond

// Shutdown ends the agent in order: no more calls, those that are open may end
// by themselves until ctx is done. Then it ends the sessions, tells clients that
// are attached how those ended, and closes. Health says NOT_SERVING from the
// start. It returns the error of ctx if that cut calls off.
func (a *Agent) Shutdown(ctx context.Context) error {
	a.health.Shutdown()
	a.guard.stop()
	done := make(chan struct{})
	go func() {
		a.server.GracefulStop()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		// While the connections stand.
		err = errors.Join(err, a.process.Close())
		select {
		case <-done:
		case <-time.After(lastAnswers):
		}
	}
	return errors.Join(err, a.Close())
}

// Close ends the agent at once: open calls fail with Unavailable, sessions are
// ended. It returns when all processes of the sessions are gone. Calls after
// the first wait for it and return the same error.
func (a *Agent) Close() error {
	a.closeOnce.Do(func() {
		a.health.Shutdown()
		a.guard.stop()
		a.server.Stop()
		a.closeErr = errors.Join(a.process.Close(), a.file.Close())
	})
	return a.closeErr
}

// newServer makes the server that all services run on. What it says about
// itself reaches callers who are not trusted, so it says no more than Info tells
// those.
func newServer(cfg *Config, g *guard, version string, tc *tls.Config) *rpc.Server {
	return rpc.NewServer(&rpc.ServerConfig{
		TLS:                  tc,
		OptionalTLS:          true,
		UnaryInterceptor:     g.unary,
		StreamInterceptor:    g.stream,
		UnaryInterceptors:    cfg.UnaryInterceptors,
		StreamInterceptors:   cfg.StreamInterceptors,
		StatsHandlers:        cfg.StatsHandlers,
		MaxConcurrentStreams: maxStreams,
		// Twice as many as are let in: some are in their handshake, some of strangers,
		// some about to end.
		MaxConnections: 2 * maxConnections,
		MaxHandshakes:  maxHandshakes,
		Known:          g.known,
		Peer:           peerName,
		Admit:          newAdmission(g).admit,
		Relieved:       giveBack,
		Hello:          rpc.HelloInfo{Software: "guest-agent/" + version},
		Keepalive:      rpc.Keepalive{Timeout: stoppedTime},
		Logger:         g.log,
	})
}

// giveBack gives the memory of a burst of calls back to the guest.
func giveBack() {
	runtime.GC() // what was in a sync.Pool survives one collection
	debug.FreeOSMemory()
}

// stoppedTime is how long a client may give no sign of life: Ctrl-Z in a shell stops
// host-ctl, and is no reason to end its command. A client that ends has its
// connection closed by its kernel at once.
const stoppedTime = 15 * time.Minute

// Alive reports whether the agent still gets through its own locks: it returns
// nil if the health and process services answered before ctx was done. It is
// for watchdogs.
func (a *Agent) Alive(ctx context.Context) error {
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		// Whatever they answer.
		_, _ = a.health.Check(ctx, &healthv1.HealthCheckRequest{})
		_, _ = a.process.ListSessions(ctx, &guestv1.ListSessionsRequest{})
	}()
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
