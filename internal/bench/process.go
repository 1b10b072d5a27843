package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A pair is a peer's server and client process.
type pair struct{ server, client *process }

func startPair(ctx context.Context, peerName, socket string, cpus [2]*unix.CPUSet) (*pair, error) {
	p := &pair{}
	var err error
	if p.server, err = startProcess(ctx, roleServer, peerName, socket, cpus[0]); err != nil {
		return nil, err
	}
	// The server listens before it answers commands.
	if _, err := p.server.do(command{Op: opUsage}); err != nil {
		p.server.close()
		return nil, err
	}
	if p.client, err = startProcess(ctx, roleClient, peerName, socket, cpus[1]); err != nil {
		p.server.close()
		return nil, err
	}
	return p, nil
}

// both has both processes do a command.
func (p *pair) both(cmd command) error {
	for _, proc := range []*process{p.server, p.client} {
		if _, err := proc.do(cmd); err != nil {
			return fmt.Errorf("%s: %w", cmd.Op, err)
		}
	}
	return nil
}

// profile starts CPU profiles to files that begin with prefix.
func (p *pair) profile(prefix string) error {
	if _, err := p.server.do(command{Op: opProfile, Profile: prefix + "-server.pprof"}); err != nil {
		return err
	}
	_, err := p.client.do(command{Op: opProfile, Profile: prefix + "-client.pprof"})
	return err
}

func (p *pair) close() {
	p.client.close()
	p.server.close()
}

// commandTimeout bounds a command beyond its own time.
const commandTimeout = 20 * time.Second

// A process is a child that takes commands.
type process struct {
	role   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	enc    *json.Encoder
	dec    *json.Decoder
	stderr firstBytes
}

func startProcess(ctx context.Context, role, peerName, socket string, cpus *unix.CPUSet) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{role: role, cmd: exec.CommandContext(ctx, self)}
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", childEnv, role, peerName, socket))
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.enc, p.dec = in, json.NewEncoder(in), json.NewDecoder(out)
	if err := onCPUs(cpus, p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s of %s: %w", role, peerName, err)
	}
	return p, nil
}

// do carries out one command. A process that does not answer in time is killed.
func (p *process) do(cmd command) (reply, error) {
	timer := time.AfterFunc(cmd.For+commandTimeout, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	var r reply
	err := p.enc.Encode(cmd)
	if err == nil {
		err = p.dec.Decode(&r)
	}
	if err != nil {
		return r, fmt.Errorf("%s process ended or hung: %w; stderr: %q", p.role, err, p.stderr.String())
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// close ends the process by the end of its stdin, or kills it.
func (p *process) close() {
	timer := time.AfterFunc(commandTimeout, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	_ = p.in.Close()
	_ = p.cmd.Wait() // how it ended does not matter any more
}

// firstBytes keeps the beginning of what a process says on stderr.
type firstBytes struct {
	mu  sync.Mutex
	buf []byte
}

func (f *firstBytes) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = append(f.buf, b[:min(len(b), 2048-len(f.buf))]...)
	return len(b), nil
}

func (f *firstBytes) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.buf)
}
