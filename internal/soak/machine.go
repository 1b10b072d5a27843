//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/keys"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

const agentPort = 1000

// machine is a guest: an agent's process behind a simulated VMM. It shares its
// file system with this process, which so can look at what the agent did.
type machine struct {
	s      *soak
	number int
	vmm    *vmmtest.VMM
	dir    string // of this machine
	files  string // where copies go; on a small file system of its own, perhaps
	socket string // the agent's
	limit  int    // the agent's limit of descriptors; 0: none
	cgroup *os.File

	trust    *guest.Trust // nil: this machine knows its callers by their uid
	identity string       // file of the host's key, if there is trust

	probe *guest.Guest // finds out when the machine answers again
	base  footprint    // of the agent after its first work

	starts int          // how often the agent was started
	agents atomic.Int64 // goes up before the agent is killed, and when the next one serves

	mu    sync.Mutex
	agent *exec.Cmd
	ended chan struct{}          // closed when agent has ended
	ctls  map[*exec.Cmd]*ctlCall // what host-ctl runs
}

// log is the file of what the agents of this machine print.
func (m *machine) log() string     { return filepath.Join(m.dir, "agent.log") }
func (m *machine) journal() string { return filepath.Join(m.dir, "journal") }
func (m *machine) target() string  { return m.vmm.Addr(agentPort) }
func (m *machine) String() string  { return fmt.Sprintf("machine %d", m.number) }

// newMachine makes a machine and starts its agent.
func (s *soak) newMachine(number int) (*machine, error) {
	m := &machine{s: s, number: number, dir: filepath.Join(s.dir, fmt.Sprint("m", number)), ctls: make(map[*exec.Cmd]*ctlCall)}
	m.files, m.socket = filepath.Join(m.dir, "files"), filepath.Join(m.dir, "agent.sock")
	for _, dir := range []string{m.dir, m.files, filepath.Join(m.dir, "state")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if m.has(diskFull) {
		if err := syscall.Mount("tmpfs", m.files, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)); err != nil {
			return nil, fmt.Errorf("mount a small tmpfs: %w", err)
		}
	}
	if m.has(noFiles) {
		m.limit = fewFiles
	}
	if s.opts.memory > 0 {
		if err := m.makeCgroup(); err != nil {
			return nil, err
		}
	}
	if number%4 == 3 || s.opts.tls {
		if err := m.makeKeys(); err != nil {
			return nil, err
		}
	}
	var err error
	if m.vmm, err = vmmtest.Start(vmmtest.Config{}); err != nil {
		return nil, err
	}
	if err := m.vmm.Forward(agentPort, "unix:"+m.socket); err != nil {
		return nil, err
	}
	return m, m.start()
}

// has reports whether the schedule has faults of this kind for the machine.
func (m *machine) has(k kind) bool {
	for _, have := range m.s.kinds(m.number) {
		if have == k {
			return true
		}
	}
	return false
}

// makeKeys has the machine and its callers know each other by keys.
func (m *machine) makeKeys() error {
	own, _, err := keys.ReadOrMake(filepath.Join(m.dir, "state", "id_ed25519"))
	if err != nil {
		return err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	m.identity = filepath.Join(m.dir, "identity")
	if err := keys.WritePrivate(m.identity, private); err != nil {
		return err
	}
	m.trust = &guest.Trust{Key: private, GuestKey: keys.PublicOf(own).Fingerprint()}
	hosts := keys.FormatHosts([]keys.Host{{Key: keys.PublicOf(private), Name: "soak"}})
	return os.WriteFile(filepath.Join(m.dir, "hosts"), hosts, 0o600)
}

// makeCgroup makes a cgroup that bounds the memory of the agent and its
// sessions.
func (m *machine) makeCgroup() error {
	const root = "/sys/fs/cgroup"
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
		return err
	}
	dir := filepath.Join(root, fmt.Sprint("soak", m.number))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.max"), []byte(strconv.FormatInt(m.s.opts.memory, 10)), 0); err != nil {
		return err
	}
	var err error
	m.cgroup, err = os.Open(dir)
	return err
}

// start starts the agent and waits until it listens.
func (m *machine) start() error {
	_ = os.Remove(m.socket) // a killed agent leaves it
	log, err := os.OpenFile(m.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := []string{m.s.opts.agent, "--listen", "unix:" + m.socket, "--state-dir", filepath.Join(m.dir, "state"),
		"--authorized-hosts", filepath.Join(m.dir, "hosts"), "--policy", filepath.Join(m.dir, "policy"), "--log-level", "warn"}
	if m.limit > 0 {
		argv = append([]string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, m.limit), "sh"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = m.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if m.cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(m.cgroup.Fd())
	}
	if err := m.s.children.start(cmd); err != nil {
		return fmt.Errorf("start guest-agent: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = m.s.children.wait(cmd) // killed, as a rule
		close(ended)
	}()
	m.mu.Lock()
	m.agent, m.ended = cmd, ended
	m.mu.Unlock()
	m.starts++
	var d net.Dialer
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := d.Dial("unix", m.socket)
		if err == nil {
			m.agents.Add(1)
			return c.Close()
		}
		select {
		case <-ended:
			return fmt.Errorf("guest-agent ended: %v: %s", cmd.ProcessState, tail(m.log()))
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("guest-agent does not listen: %w", err)
		}
	}
}

// kill ends the agent and all it has started.
func (m *machine) kill() error {
	m.agents.Add(1)
	m.mu.Lock()
	cmd, ended := m.agent, m.ended
	m.mu.Unlock()
	_ = cmd.Process.Kill()
	<-ended
	return m.s.children.killOrphans()
}

// signal sends the agent a signal.
func (m *machine) signal(sig syscall.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.agent.Process.Signal(sig)
}

func (m *machine) pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.agent.Process.Pid
}

// dial connects to the machine's agent, which answers.
func (m *machine) dial(ctx context.Context) (*guest.Guest, error) {
	cfg := &guest.Config{Trust: m.trust, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		g, err := guest.Dial(try, m.target(), cfg)
		cancel()
		if err == nil {
			return g, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// close ends all of the machine.
func (m *machine) close() {
	if m.agent != nil {
		if err := m.kill(); err != nil {
			m.s.violate("%v: %v", m, err)
		}
	}
	if m.vmm != nil {
		m.vmm.Close()
	}
	if m.cgroup != nil {
		m.cgroup.Close()
	}
	if m.has(diskFull) {
		_ = syscall.Unmount(m.files, syscall.MNT_DETACH)
	}
}
