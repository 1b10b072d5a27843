//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/guest"
)

const (
	// smallDisk is the size of the file system that gets full, in bytes.
	smallDisk = 64 << 20
	// fewFiles is how many descriptors an agent may have that runs out of them.
	fewFiles = 256
	// recoverLimit is how long a machine may take to answer again.
	recoverLimit = 30 * time.Second
)

// errNotInjected says that there was nothing to hit.
var errNotInjected = errors.New("nothing to hit")

// injectAll injects the faults of a machine until ctx is done.
func (m *machine) injectAll(ctx context.Context, faults []fault) {
	for _, f := range faults {
		select {
		case <-time.After(time.Until(m.s.began.Add(f.at))):
		case <-ctx.Done():
			return
		}
		if ctx.Err() != nil {
			return
		}
		m.s.trace("%v: %v", m, f)
		err := m.inject(ctx, f)
		if errors.Is(err, errNotInjected) {
			continue
		}
		if err != nil {
			m.s.violate("%v: inject %v: %v", m, f, err)
			return
		}
		took, err := m.recovered()
		if err != nil {
			m.s.violate("%v: no answer within %v after %v: %v", m, recoverLimit, f, err)
		}
		m.s.stats.injected(f.kind, took)
	}
}

// inject injects one fault and returns when it is over.
func (m *machine) inject(ctx context.Context, f fault) error {
	switch f.kind {
	case reset:
		m.vmm.Reset()
	case pause, snapshot:
		return m.pause(ctx, f)
	case agentKill:
		if err := m.kill(); err != nil {
			return err
		}
		wait(ctx, f.lasts)
		return m.start()
	case hostCtlKill:
		return m.killHostCtl(f.pick)
	case diskFull:
		return m.fillDisk(ctx, f.lasts)
	case noFiles:
		return m.useUpFiles(ctx, f.lasts)
	case clockForward:
		return jumpClock(24 * time.Hour)
	case clockBack:
		return jumpClock(-24 * time.Hour)
	case memoryNeeded:
		return m.useUpMemory(ctx)
	}
	return nil
}

// wait waits, but not beyond the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// recovered waits until the machine answers a client that had a connection, and
// returns how long that took.
func (m *machine) recovered() (time.Duration, error) {
	start := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := m.probe.Info(ctx)
		cancel()
		took := time.Since(start)
		if err == nil {
			return took, nil
		}
		if took > recoverLimit {
			return took, err
		}
		time.Sleep(5 * time.Millisecond) // between two tries of a measurement
	}
}

// pause stops the agent and its connections. After a snapshot the connections
// are gone when the agent goes on, as on the machine where it is restored.
func (m *machine) pause(ctx context.Context, f fault) error {
	m.vmm.Pause()
	if err := m.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	wait(ctx, f.lasts)
	if f.kind == snapshot {
		m.vmm.Reset()
	}
	if err := m.signal(syscall.SIGCONT); err != nil {
		return err
	}
	m.vmm.Resume()
	return nil
}

// killHostCtl kills one of the machine's host-ctl.
func (m *machine) killHostCtl(pick uint64) error {
	for range 100 {
		if m.killOneHostCtl(pick) {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // until there is one, if one comes
	}
	return errNotInjected
}

func (m *machine) killOneHostCtl(pick uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ctls) == 0 {
		return false
	}
	n := int(pick % uint64(len(m.ctls)))
	for cmd, call := range m.ctls {
		if n--; n < 0 {
			call.killed = true
			_ = cmd.Process.Kill()
		}
		if n < 0 {
			break
		}
	}
	return true
}

// fillDisk fills the small file system for a while.
func (m *machine) fillDisk(ctx context.Context, lasts time.Duration) (err error) {
	f, err := os.Create(filepath.Join(m.files, "ballast"))
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		err = errors.Join(err, os.Remove(f.Name()))
	}()
	chunk := make([]byte, 1<<20)
	fill := func() error {
		for {
			_, err := f.Write(chunk)
			if errors.Is(err, syscall.ENOSPC) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	// Copies free some space when they give up.
	for end := time.Now().Add(lasts); time.Now().Before(end) && ctx.Err() == nil; {
		if err := fill(); err != nil {
			return err
		}
		wait(ctx, 50*time.Millisecond)
	}
	return nil
}

// useUpFiles opens connections until the agent has no descriptor left, and
// checks that it answers those who have a connection.
func (m *machine) useUpFiles(ctx context.Context, lasts time.Duration) (err error) {
	dialCtx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	g, err := m.dial(dialCtx)
	if ctx.Err() != nil {
		return errNotInjected
	}
	if err != nil {
		return err
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
		g.Close()
		err = errors.Join(err, eventually(m.hasFiles))
	}()
	var end time.Time // once the agent has none left
	for ctx.Err() == nil && (end.IsZero() || time.Now().Before(end)) {
		c, err := g.DialContext(dialCtx, "tcp", m.s.echo.addr())
		if err == nil {
			conns = append(conns, c)
			if len(conns) > fewFiles {
				return fmt.Errorf("%d connections with %d descriptors", len(conns), fewFiles)
			}
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if e, ok := errors.AsType[*guest.Error](err); !ok || e.Reason != "files-exhausted" {
			return fmt.Errorf("the %dth connection: %w", len(conns)+1, err)
		}
		if end.IsZero() {
			end = time.Now().Add(lasts)
		}
		if _, err := g.Info(dialCtx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("an agent without descriptors does not answer: %w", err)
		}
		wait(ctx, 50*time.Millisecond)
	}
	return nil
}

// hasFiles checks that the agent has descriptors again.
func (m *machine) hasFiles() error {
	open, err := descriptors(m.pid())
	if err == nil && len(open) > fewFiles/2 {
		err = fmt.Errorf("the agent still has %d descriptors", len(open))
	}
	return err
}

// jumpClock sets the clock of this kernel, which must be one of the lab.
func jumpClock(by time.Duration) error {
	if os.Getenv(envLab) != "uml" {
		return errors.New("the clock is set in a lab only")
	}
	var tv unix.Timeval
	if err := unix.Gettimeofday(&tv); err != nil {
		return err
	}
	tv.Sec += int64(by / time.Second)
	return unix.Settimeofday(&tv)
}

// useUpMemory runs a program that takes all memory that the agent and its
// sessions may have together. It is killed and the agent is not.
func (m *machine) useUpMemory(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	// tail keeps what may be the end of what it reads, which has no newline.
	out, err := m.probe.Command(ctx, "/bin/sh", "-c", "exec tail -n 1 /dev/zero").CombinedOutput()
	exit, ok := errors.AsType[*guest.ExitError](err)
	switch {
	case !ok:
		return fmt.Errorf("a program that takes all memory: %w", err)
	case exit.Signal() != 9 && !strings.Contains(string(out), "memory"):
		return fmt.Errorf("a program that takes all memory: %v, %q", exit, out)
	}
	m.mu.Lock()
	ended := m.ended
	m.mu.Unlock()
	select {
	case <-ended:
		return errors.New("the agent was killed for want of memory")
	default:
		return nil
	}
}
