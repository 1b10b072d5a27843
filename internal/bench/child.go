package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
)

// childEnv tells a process started by the orchestrator its part: the role, the
// peer and the socket, with spaces between.
const childEnv = "VSOCKRPC_BENCH_CHILD"

const (
	roleServer = "server"
	roleClient = "client"
)

func isChild() bool { return os.Getenv(childEnv) != "" }

// childMain is main of a server or client process. It returns the exit status
// when stdin ends, which it does at the latest with the orchestrator.
func childMain() int {
	if err := runChild(os.Getenv(childEnv), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runChild(spec string, in io.Reader, out io.Writer) error {
	parts := strings.SplitN(spec, " ", 3)
	if len(parts) != 3 {
		return fmt.Errorf("%s=%q: want role, peer and socket", childEnv, spec)
	}
	p, err := peerByName(parts[1])
	if err != nil {
		return err
	}
	c := &child{peer: p, path: parts[2]}
	if parts[0] == roleServer {
		l, err := net.Listen("unix", c.path)
		if err != nil {
			return err
		}
		go func() {
			fmt.Fprintln(os.Stderr, "serve:", p.serve(l))
			os.Exit(1)
		}()
	}
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var cmd command
		if err := dec.Decode(&cmd); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var r reply
		if err := c.do(cmd, &r); err != nil {
			r.Error = err.Error()
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
}

// A child carries out commands, in a server or a client process.
type child struct {
	peer    *peer
	path    string
	profile *os.File
	clients []client       // open, of the last opOpen at the end
	calls   []func() error // the callers of the last client
}

func (c *child) do(cmd command, r *reply) (err error) {
	switch cmd.Op {
	case opCollect:
		runtime.GC()
		runtime.GC() // the second empties sync.Pool
	case opUsage:
		r.Usage, err = currentUsage()
	case opOpen:
		err = c.open(cmd)
	case opRun:
		r.Result, err = c.run(cmd)
	case opClose:
		err = c.close()
	case opProfile:
		err = c.setProfile(cmd.Profile)
	default:
		err = fmt.Errorf("unknown operation %q", cmd.Op)
	}
	return err
}

func (c *child) setProfile(file string) error {
	if c.profile != nil {
		pprof.StopCPUProfile()
		err := c.profile.Close()
		c.profile = nil
		if err != nil {
			return err
		}
	}
	if file == "" {
		return nil
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	c.profile = f
	return pprof.StartCPUProfile(f)
}

func (c *child) close() error {
	var first error
	for _, cl := range c.clients {
		if err := cl.close(); err != nil && first == nil {
			first = err
		}
	}
	c.clients, c.calls = nil, nil
	return first
}
