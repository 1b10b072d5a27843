package vmmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/transport"
)

// Numbers that Firecracker fixes.
const (
	firstPort      = 1 << 30 // the host's ports are 2^30 up to 2^31-1
	lastPort       = 1<<31 - 1
	maxConns       = 1023            // MAX_CONNECTIONS
	requestTimeout = 2 * time.Second // CONN_REQUEST_TIMEOUT_MS
)

// Config configures a VMM. The zero value is a good one.
type Config struct {
	// Path is the path of the Unix socket; "" means one in a directory of its
	// own, which Close removes.
	Path string

	// GuestCID is the CID that the guest believes to have; 0 means 3.
	GuestCID uint32

	// FirstPort is the number of the first "OK", from 2^30 up to 2^31-1, after
	// which it begins again; 0 means 2^30.
	FirstPort uint32

	// MaxConns is the number of connections that may be open; 0 means 1023.
	MaxConns int

	// RequestTimeout limits the time that a guest, when paused, has for taking
	// a connection; 0 means 2 s.
	RequestTimeout time.Duration

	// Faults are in force from the beginning.
	Faults Faults
}

// VMM is a simulated VMM with one guest. Its methods may be called
// concurrently. The owner must Close it.
type VMM struct {
	Path string // of the Unix socket, not to be changed

	config   Config
	dir      string // to be removed
	listener *net.UnixListener
	ctx      context.Context // ends with the VMM
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mode atomic.Pointer[mode]

	mu       sync.Mutex
	closed   bool
	links    map[*link]struct{}
	admitted int               // links that count as connections
	nextPort uint32            // of the host
	used     map[uint32]bool   // ports of the host
	ephemera uint32            // the guest's last port for dialing
	targets  map[uint32]target // ports of the guest

	serial                                     atomic.Uint64 // of random sources
	open, fromHost, fromGuest                  atomic.Int64
	accepted, refused, resets, toGuest, toHost atomic.Int64
}

// New starts a VMM that is closed at the end of the test. It fails the test if
// it cannot.
func New(tb testing.TB) *VMM {
	tb.Helper()
	v, err := Start(Config{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(v.Close)
	return v
}

// Start starts a VMM. The caller must Close it.
func Start(cfg Config) (*VMM, error) {
	if cfg.GuestCID == 0 {
		cfg.GuestCID = 3
	}
	if cfg.FirstPort == 0 {
		cfg.FirstPort = firstPort
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = maxConns
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = requestTimeout
	}
	if cfg.FirstPort < firstPort || cfg.FirstPort > lastPort {
		return nil, fmt.Errorf("vmmtest: first port %d is not in [2^30, 2^31)", cfg.FirstPort)
	}
	v := &VMM{
		Path:     cfg.Path,
		config:   cfg,
		links:    make(map[*link]struct{}),
		nextPort: cfg.FirstPort,
		used:     make(map[uint32]bool),
		ephemera: 1023,
		targets:  make(map[uint32]target),
	}
	if v.Path == "" {
		dir, err := os.MkdirTemp("", "vmm")
		if err != nil {
			return nil, fmt.Errorf("vmmtest: %w", err)
		}
		v.dir = dir
		v.Path = filepath.Join(dir, "v.sock")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: v.Path, Net: "unix"})
	if err != nil {
		v.removeDir()
		return nil, fmt.Errorf("vmmtest: %w", err)
	}
	v.listener = l
	v.ctx, v.cancel = context.WithCancel(context.Background())
	v.mode.Store(newMode(cfg.Faults, false))
	v.running.Go(v.accept)
	v.running.Go(v.resetAgainAndAgain)
	return v, nil
}

// Addr returns the address, for ParseAddr of transport, of a port of the guest.
func (v *VMM) Addr(port uint32) string { return transport.MuxAddr(v.Path, port).String() }

// Close ends the VMM as if its process were killed: all connections are reset,
// the guest's listeners closed, the socket's file removed. When it returns,
// nothing of the VMM is left. Only the first call has an effect; the others
// wait for it.
func (v *VMM) Close() {
	v.mu.Lock()
	first := !v.closed
	v.closed = true
	targets := v.targets
	v.targets = nil
	v.mu.Unlock()
	if first {
		v.cancel()
		v.listener.Close()
		for _, t := range targets {
			t.close()
		}
		v.Reset()
	}
	v.running.Wait()
	if first {
		v.removeDir()
	}
}

func (v *VMM) removeDir() {
	if v.dir != "" {
		os.RemoveAll(v.dir)
	}
}

// Reset resets all connections, those that wait for an answer to CONNECT too,
// and keeps all listeners, as a restore from a snapshot does.
func (v *VMM) Reset() {
	for _, l := range v.all() {
		l.reset()
	}
}

// Pause stops the guest: no byte passes in either direction, and new
// connections get no answer. Only the connections stand still; what the test
// runs as the guest has to be stopped by the test.
func (v *VMM) Pause() { v.setMode(func(m *mode) { m.paused = true }) }

// Resume lets a paused guest go on where it was.
func (v *VMM) Resume() { v.setMode(func(m *mode) { m.paused = false }) }

// SetFaults replaces all faults. Those of Flow hold for open connections too.
func (v *VMM) SetFaults(f Faults) { v.setMode(func(m *mode) { m.Faults = f }) }

func (v *VMM) setMode(change func(*mode)) {
	v.mu.Lock()
	old := v.mode.Load()
	m := newMode(old.Faults, old.paused)
	change(m)
	v.mode.Store(m)
	close(old.changed)
	v.mu.Unlock()
	for _, l := range v.all() {
		l.strike(m)
	}
}

// Stats are the counters of a VMM.
type Stats struct {
	Open      int64 // connections that are established now
	FromHost  int64 // connections established by the host, in all
	FromGuest int64 // connections established by the guest, in all
	Accepted  int64 // connections accepted at the Unix socket, answered or not
	Refused   int64 // connections of the host that ended without having been established
	Resets    int64 // established connections that ended in a reset
	ToGuest   int64 // bytes delivered to the guest
	ToHost    int64 // bytes delivered to the host, without handshakes
}

// Stats returns the counters. Each is exact; they are not read at one moment.
func (v *VMM) Stats() Stats {
	return Stats{
		Open:      v.open.Load(),
		FromHost:  v.fromHost.Load(),
		FromGuest: v.fromGuest.Load(),
		Accepted:  v.accepted.Load(),
		Refused:   v.refused.Load(),
		Resets:    v.resets.Load(),
		ToGuest:   v.toGuest.Load(),
		ToHost:    v.toHost.Load(),
	}
}

// accept takes the connections of the host.
func (v *VMM) accept() {
	for {
		if v.waitMode(v.ctx, nil, func(m *mode) bool { return !m.NoAccept }) == nil {
			return
		}
		u, err := v.listener.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// The process has no descriptor left, or the like: the others may
			// free some.
			if !sleep(v.ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		// The mode may have changed while this waited for a connection.
		if v.waitMode(v.ctx, nil, func(m *mode) bool { return !m.NoAccept }) == nil {
			u.Close()
			return
		}
		host, err := newHostStream(u)
		if err != nil {
			u.Close()
			continue
		}
		v.start(newLink(v, host), v.serve)
		v.accepted.Add(1)
	}
}

// start runs f for a new link in a goroutine, unless the VMM is closed.
func (v *VMM) start(l *link, f func(*link)) bool {
	v.mu.Lock()
	closed := v.closed
	if !closed {
		v.links[l] = struct{}{}
		v.running.Go(func() { f(l) })
	}
	v.mu.Unlock()
	if closed {
		l.reset()
	}
	return !closed
}

// resetAgainAndAgain does what Faults.ResetEvery says.
func (v *VMM) resetAgainAndAgain() {
	for v.ctx.Err() == nil {
		m := v.mode.Load()
		var tick <-chan time.Time
		if m.ResetEvery > 0 {
			tick = time.After(m.ResetEvery)
		}
		select {
		case <-v.ctx.Done():
		case <-m.changed:
		case <-tick:
			v.Reset()
		}
	}
}

// waitMode waits until the mode is good and returns it, or nil when ctx ends or
// done is closed before. done may be nil.
func (v *VMM) waitMode(ctx context.Context, done <-chan struct{}, good func(*mode) bool) *mode {
	for {
		m := v.mode.Load()
		if good(m) && ctx.Err() == nil {
			return m
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			return nil
		case <-m.changed:
		}
	}
}

func (v *VMM) all() []*link {
	v.mu.Lock()
	defer v.mu.Unlock()
	links := make([]*link, 0, len(v.links))
	for l := range v.links {
		links = append(links, l)
	}
	return links
}

// admit counts l as one of the connections, if there is room.
func (v *VMM) admit(l *link) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.links[l]; !ok || v.admitted >= v.config.MaxConns {
		return false
	}
	v.admitted++
	l.admitted = true
	return true
}

func (v *VMM) full() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.admitted >= v.config.MaxConns
}

// establish counts l, and as open if it is not over already.
func (v *VMM) establish(l *link, counter *atomic.Int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.links[l]; ok {
		l.established = true
		v.open.Add(1)
	}
	counter.Add(1)
}

func (v *VMM) isEstablished(l *link) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return l.established
}

// remove forgets a link that is over.
func (v *VMM) remove(l *link) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.links[l]; !ok {
		return
	}
	delete(v.links, l)
	if l.admitted {
		v.admitted--
	}
	if l.established {
		v.open.Add(-1)
	}
	if l.number != 0 {
		delete(v.used, l.number)
	}
}

// allot gives l a port of the host.
func (v *VMM) allot(l *link) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.used[v.nextPort] {
		v.nextPort = portAfter(v.nextPort)
	}
	l.number = v.nextPort
	v.nextPort = portAfter(v.nextPort)
	if _, ok := v.links[l]; ok {
		v.used[l.number] = true
	}
}

func portAfter(port uint32) uint32 {
	if port == lastPort {
		return firstPort
	}
	return port + 1
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
