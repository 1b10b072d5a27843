package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// deadline is how long a call against an agent that does not end may take, and
// patience how long one on a busy machine may take to notice.
const (
	deadline = 400 * time.Millisecond
	patience = time.Minute
)

// operations are what programs do with a guest. Each ends by itself or with its
// context.
func operations(dir string) map[string]func(context.Context, *guest.Guest) error {
	all := map[string]func(context.Context, *guest.Guest) error{
		"run": func(ctx context.Context, g *guest.Guest) error {
			_, err := g.Command(ctx, "true").CombinedOutput()
			return err
		},
		"attach": func(ctx context.Context, g *guest.Guest) error {
			return g.Attach(ctx, "build", &guest.AttachOptions{Observer: true, FromOldest: true}).Run()
		},
		"sessions": func(ctx context.Context, g *guest.Guest) error {
			_, err := g.Sessions(ctx)
			return err
		},
		"processes": func(ctx context.Context, g *guest.Guest) error {
			for _, err := range g.Processes(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"watch sessions": func(ctx context.Context, g *guest.Guest) error {
			for _, err := range g.WatchSessions(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"wait": func(ctx context.Context, g *guest.Guest) error {
			_, err := g.WaitSession(ctx, guest.SessionID{})
			return err
		},
		"remove": func(ctx context.Context, g *guest.Guest) error {
			return g.RemoveSession(ctx, guest.SessionID{}, &guest.RemoveOptions{Force: true})
		},
		"signal": func(ctx context.Context, g *guest.Guest) error {
			return g.SignalSession(ctx, guest.SessionID{}, 15, &guest.SignalOptions{Group: true})
		},
		"signal a process": func(ctx context.Context, g *guest.Guest) error {
			return g.SignalProcess(ctx, 1, 15, &guest.SignalOptions{StartTicks: 1})
		},
		"host keys": func(ctx context.Context, g *guest.Guest) error {
			_, err := g.HostKeys(ctx)
			return err
		},
		"policy": func(ctx context.Context, g *guest.Guest) error {
			_, err := g.Policy(ctx)
			return err
		},
		"clock": func(ctx context.Context, g *guest.Guest) error {
			_, err := g.Clock(ctx)
			return err
		},
		"set clock": func(ctx context.Context, g *guest.Guest) error {
			_, err := g.SetClock(ctx, time.Unix(1, 0), nil)
			return err
		},
		"sync clock": func(ctx context.Context, g *guest.Guest) error {
			_, _, err := g.SyncClock(ctx, nil)
			return err
		},
		"explain": func(ctx context.Context, g *guest.Guest) error {
			_, err := g.Explain(ctx, &guestv1.ExplainRequest{})
			return err
		},
		"dial": func(ctx context.Context, g *guest.Guest) error {
			c, err := g.DialContext(ctx, "tcp", "127.0.0.1:80")
			if err != nil {
				return err
			}
			defer c.Close()
			return drain(ctx, c)
		},
		"listen": func(ctx context.Context, g *guest.Guest) error {
			l, err := g.Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer context.AfterFunc(ctx, func() { l.Close() })()
			for range 100 {
				c, err := l.Accept()
				if err != nil {
					return err
				}
				c.Close()
			}
			return l.Close()
		},
	}
	for name, f := range fileOperations(dir) {
		all[name] = func(ctx context.Context, g *guest.Guest) error { return f(ctx, g.Files()) }
	}
	return all
}

// drain reads c to its end, and no longer than ctx.
func drain(ctx context.Context, c net.Conn) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	_, err := io.Copy(io.Discard, c)
	return err
}

func fileOperations(dir string) map[string]func(context.Context, *guest.Files) error {
	return map[string]func(context.Context, *guest.Files) error{
		"stat": func(ctx context.Context, f *guest.Files) error {
			info, err := f.Stat(ctx, "/a")
			if err == nil {
				_, _, _, _ = info.Name(), info.Mode(), info.ModTime(), info.String()
			}
			return err
		},
		"readlink": func(ctx context.Context, f *guest.Files) error {
			_, err := f.ReadLink(ctx, "/a")
			return err
		},
		"list": func(ctx context.Context, f *guest.Files) error {
			for info, err := range f.List(ctx, "/", nil) {
				if err != nil {
					return err
				}
				_, _, _ = info.Name(), info.Path(), info.String()
			}
			return nil
		},
		"walk": func(ctx context.Context, f *guest.Files) error {
			return fs.WalkDir(f.FS(ctx, "/"), ".", func(_ string, _ fs.DirEntry, err error) error { return err })
		},
		"read": func(ctx context.Context, f *guest.Files) error {
			_, err := f.ReadFile(ctx, "/a", 1<<20)
			return err
		},
		"read a range": func(ctx context.Context, f *guest.Files) error {
			return f.CopyRange(ctx, io.Discard, "/a", 5, math.MaxUint64)
		},
		"open": func(ctx context.Context, f *guest.Files) error {
			file, err := f.OpenFile(ctx, "/a", os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				return err
			}
			defer context.AfterFunc(ctx, func() { file.Close() })()
			_, err1 := file.Read(make([]byte, 100))
			_, err2 := file.WriteAt(make([]byte, 100), 1<<40)
			_, err3 := file.Seek(0, io.SeekEnd)
			return errors.Join(err1, err2, err3, file.Close())
		},
		"disk free": func(ctx context.Context, f *guest.Files) error {
			_, err := f.DiskFree(ctx, "/")
			return err
		},
		"disk usage": func(ctx context.Context, f *guest.Files) error {
			_, err := f.DiskUsage(ctx, "/")
			return err
		},
		"hash": func(ctx context.Context, f *guest.Files) error {
			_, _, err := f.Hash(ctx, "/a", 0, 0)
			return err
		},
		"xattrs": func(ctx context.Context, f *guest.Files) error {
			_, err := f.Xattrs(ctx, "/a")
			return err
		},
		"mktemp": func(ctx context.Context, f *guest.Files) error {
			_, err := f.CreateTemp(ctx, "", "a*")
			return err
		},
		"watch": func(ctx context.Context, f *guest.Files) error {
			for _, err := range f.Watch(ctx, "/", &guest.WatchOptions{Recursive: true}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"copy from": func(ctx context.Context, f *guest.Files) error {
			_, err := f.CopyFrom(ctx, []string{"/a"}, filepath.Join(dir, "from"), nil)
			return err
		},
		"copy to": func(ctx context.Context, f *guest.Files) error {
			_, err := f.CopyTo(ctx, []string{filepath.Join(dir, "source")}, "/a", nil)
			return err
		},
	}
}

// TestHostileGuest has agents lie in every message of every service. Whatever they
// say, an operation ends, and its error is one that a program can look into.
func TestHostileGuest(t *testing.T) {
	outside := filepath.Join(os.TempDir(), "hostile-evil")
	var agents []Agent
	for _, temper := range Tempers {
		agents = append(agents, Agent{Temper: temper, Manner: Once, Seed: 1})
	}
	for seed := range uint64(2) {
		agents = append(agents, Agent{Temper: Mixed, Manner: Once, Seed: 2 + seed})
	}
	for _, manner := range Manners[1:] {
		agents = append(agents, Agent{Temper: Text, Manner: manner})
	}
	agents = append(agents, Agent{Temper: Large, Manner: Endless}, Agent{Temper: Empty, Manner: Endless})
	for _, a := range agents {
		for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
			t.Run(fmt.Sprintf("%s/%s/%d/%s", a.Temper, a.Manner, a.Seed, wire), func(t *testing.T) {
				a.try(t, wire)
			})
		}
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Errorf("%s was made", outside)
	}
}

// try does every operation with a.
func (a Agent) try(t *testing.T, wire guest.Wire) {
	s := a.Server()
	dial := serve(t, s.Serve)
	defer s.Stop()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "source"), make([]byte, 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := guest.Dial(t.Context(), "fake", &guest.Config{Wire: wire, Dialer: dial, Reconnect: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var wg sync.WaitGroup
	for name, op := range operations(dir) {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- op(ctx, g) }()
			select {
			case err := <-done:
				checkError(t, name, err)
			case <-time.After(patience):
				t.Errorf("%s does not end", name)
			}
		})
	}
	wg.Wait()
	// Nothing but what was asked for is in the directory.
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "source" && e.Name() != "from" {
			t.Errorf("%q is in the directory", e.Name())
		}
	}
}

// checkError: an error names what was tried, and has a word for why.
func checkError(t *testing.T, name string, err error) {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		return
	}
	if e, ok := errors.AsType[*guest.Error](err); ok {
		if e.Op == "" || e.Reason == "" && e.Code == 0 {
			t.Errorf("%s: %#v says too little", name, e)
		}
		return
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return // of a connection, as those of package net
	}
	if _, ok := errors.AsType[*guest.ExitError](err); ok {
		return
	}
	if _, ok := errors.AsType[*guest.CopyError](err); ok {
		return
	}
	t.Errorf("%s: an error without a code: %v (%T)", name, err, err)
}
