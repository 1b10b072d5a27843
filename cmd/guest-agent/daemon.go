//go:build linux

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/internal/reap"
	"github.com/vsockrpc/vsockrpc/internal/system"
	"github.com/vsockrpc/vsockrpc/transport"
)

// A daemon is an agent with listeners, and the signals that end it.
type daemon struct {
	settings *settings
	log      *slog.Logger
	// keepTrying makes a listener that fails no reason to end. The first
	// process of a guest has nobody who would start it again.
	keepTrying bool
	// signals end the daemon: the first in order, a second one at once.
	signals chan os.Signal
}

func newDaemon(s *settings) *daemon {
	d := &daemon{
		settings:   s,
		log:        newLogger(os.Stderr, os.Getenv("JOURNAL_STREAM"), s.logLevel),
		keepTrying: s.init,
		signals:    make(chan os.Signal, 4),
	}
	ends := []os.Signal{unix.SIGTERM, unix.SIGINT}
	if s.init {
		ends = append(ends, unix.SIGPWR, unix.SIGUSR1, unix.SIGUSR2)
	}
	signal.Notify(d.signals, ends...)
	// Without effect: a terminal that goes away, a journal that restarts (a
	// write to it then fails, rather than ending the agent), and, since there
	// is nothing to read again, the usual signal for that. Not signal.Ignore,
	// which sessions would inherit.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGPIPE)
	return d
}

// endTime is how long the agent has to end after its grace time. Less than what a unit
// gives it (TimeoutStopSec), so that the log can say why.
const endTime = 8 * time.Second

// mustEnd has SIGTERM end the process, whatever it waits for: a log that nobody reads, a
// disk that does not answer. What is left of it then is for the kernel to end.
func (d *daemon) mustEnd() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT)
	go func() {
		<-ends
		time.Sleep(d.settings.grace + endTime)
		go d.log.Error("guest-agent has not ended by itself") // it may be the log
		time.Sleep(100 * time.Millisecond)
		os.Exit(exitFailure)
	}()
}

// run serves until a signal comes, which it returns, or, unless it keeps
// trying, a listener fails.
func (d *daemon) run() (os.Signal, error) {
	if len(d.settings.unknown) > 0 {
		d.log.Warn("settings that this version does not know", "names", d.settings.unknown)
	}
	if d.settings.init {
		setupGuest(d.log)
	}
	switch foreign, err := checkProgram(ownProgram); {
	case err != nil && !d.keepTrying:
		return nil, err
	case err != nil:
		d.log.Error("who may write the agent's file has its rights", "err", err)
	case foreign != "":
		d.log.Warn(foreign)
	}
	reaper, err := reap.Start(d.log)
	if err != nil {
		return nil, err
	}
	defer reaper.Close()

	mode, why := d.settings.peer.Resolve(string(system.ReadVMM("/")))
	rules := access.Rules{Mode: mode, AllowCIDs: d.settings.allowCID.values, UID: uint32(os.Geteuid())}
	cfg := &agent.Config{
		Logger:  d.log,
		Access:  rules,
		Machine: true,
		Process: &process.Config{Cgroup: true, Protect: true},
		File:    &file.Config{Root: d.settings.filesRoot},
	}
	closeAudit, err := d.secure(cfg)
	if err != nil {
		return nil, err
	}
	defer closeAudit()
	if cfg.Locked = d.settings.locked; cfg.Locked != "" {
		d.log.Error("it is not known who may call: nothing but health is served until this is mended", "err", cfg.Locked)
	}
	a, err := agent.New(cfg)
	if err != nil {
		return nil, err
	}
	defer a.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	where, failed, err := d.listenAll(ctx, a)
	if err != nil {
		return nil, err
	}
	d.log.Info("serving", "version", a.Version(), "agent_id", a.ID(), "listen", where, "peer", string(mode), "because", why,
		"allow_cid", d.settings.allowCID.String(), "uid", rules.UID, "level", a.Level(), "key", a.Fingerprint(),
		"policy", policyState(cfg.Policy), "audit", d.settings.audit)
	d.warnWithoutVsock(where)
	notify(d.log, "READY=1\nSTATUS=serving on "+where)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watchdog(ctx, d.log, a.Alive)
	}()

	var sig os.Signal
	select {
	case sig = <-d.signals:
		d.log.Info("stopping", "signal", sig.String(), "grace", d.settings.grace)
	case err = <-failed:
	}
	notify(d.log, "STOPPING=1\nSTATUS=waiting for calls to end")
	d.drain(a)
	cancel()
	<-watched
	return sig, err
}

// drain ends the agent: calls may go on for the grace time, or until another
// signal comes.
func (d *daemon) drain(a *agent.Agent) {
	ctx, cancel := context.WithTimeout(context.Background(), d.settings.grace)
	defer cancel()
	go func() {
		select {
		case <-d.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := a.Shutdown(ctx); err != nil {
		d.log.Warn("calls were cut off", "err", err)
	}
}

// listenAll starts to serve on all addresses, and returns them as text. What
// fails later comes through the channel.
func (d *daemon) listenAll(ctx context.Context, a *agent.Agent) (string, <-chan error, error) {
	inherited, err := transport.ActivationListeners(nil)
	if err != nil {
		return "", nil, err
	}
	addrs := d.settings.listen.values
	if len(addrs) == 0 && len(inherited) == 0 {
		addrs = []listenAddr{defaultAddr}
	}
	failed := make(chan error, len(inherited)+len(addrs))
	var where []string
	for _, l := range inherited {
		face := faceNamed(l.Name())
		where = append(where, withFace(l, face))
		go func() { failed <- a.ServeFace(l, face) }()
	}
	for _, addr := range addrs {
		l, err := listen(ctx, addr.Addr)
		switch {
		case err == nil:
			where = append(where, withFace(l, addr.face))
			go d.serveOn(ctx, a, l, addr, failed)
		case d.keepTrying:
			d.log.Error("cannot listen; trying again", "err", err)
			go d.serveOn(ctx, a, nil, addr, failed)
		default:
			return "", nil, err
		}
	}
	return strings.Join(where, " "), failed, nil
}

// serveOn serves on l, or if it is nil on a new listener for addr.
func (d *daemon) serveOn(ctx context.Context, a *agent.Agent, l *transport.Listener, addr listenAddr, failed chan<- error) {
	const firstDelay, lastDelay = 250 * time.Millisecond, 15 * time.Second
	delay := firstDelay
	for {
		if l != nil {
			delay = firstDelay
			err := a.ServeFace(l, addr.face)
			if err == nil || !d.keepTrying {
				failed <- err
				return
			}
			d.log.Error("cannot go on listening; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, lastDelay)
		var err error
		if l, err = listen(ctx, addr.Addr); err == nil {
			d.log.Info("listening", "listen", withFace(l, addr.face))
		}
	}
}

// faceNamed returns the face that the name of an inherited socket stands for
// (FileDescriptorName=user in a unit): one named user or control has that face.
func faceNamed(name string) access.Face {
	face, err := access.ParseFace(name)
	if err != nil {
		return access.FaceAll
	}
	return face
}

// withFace returns the address of a listener, with its face if it has one.
func withFace(l *transport.Listener, face access.Face) string {
	where := l.Addr().String()
	if face != access.FaceAll {
		where += faceOption + string(face)
	}
	return where
}

// listen listens on one address. The socket file of a Unix address is for the
// agent's user and root, as are the answers.
func listen(ctx context.Context, addr transport.Addr) (*transport.Listener, error) {
	return transport.Listen(ctx, addr, &transport.ListenConfig{Mode: 0o600})
}

// warnWithoutVsock says so if the agent listens on vsock where nobody can call:
// the kernel has vsock, the machine no device for it.
func (d *daemon) warnWithoutVsock(where string) {
	if !strings.Contains(where, transport.NetworkVsock+":") {
		return
	}
	if _, err := transport.LocalCID(); errors.Is(err, transport.ErrAddrNotAvail) {
		d.log.Warn("this machine has no vsock device, so nobody can call yet", "remedy",
			"give the VM one (QEMU: -device vhost-vsock-pci,guest-cid=3) and load vmw_vsock_virtio_transport")
	}
}
