//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// fileCalls are calls that get hold of a path.
var fileCalls = map[string]func(context.Context, guestv1.FileServiceClient, string) error{
	"stat": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.Stat(ctx, &guestv1.StatRequest{Path: []byte(p + "/file"), Follow: true})
		return err
	},
	"list": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		st, err := c.List(ctx, &guestv1.ListRequest{Path: []byte(p)})
		if err != nil {
			return err
		}
		_, err = st.Recv()
		return err
	},
	"read": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := readFile(ctx, c, p+"/file")
		return err
	},
	"hash": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.Hash(ctx, &guestv1.HashRequest{Path: []byte(p + "/file")})
		return err
	},
	"usage": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.DiskUsage(ctx, &guestv1.DiskUsageRequest{Path: []byte(p + "/file")})
		return err
	},
	"watch": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		st, err := c.Watch(ctx, &guestv1.WatchRequest{Path: []byte(p + "/")})
		if err != nil {
			return err
		}
		_, err = st.Recv()
		return err
	},
	"open": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		return openFile(ctx, c, &guestv1.OpenFile{Path: []byte(p + "/file"), Read: true, Write: true, Truncate: true})
	},
	"create": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		return openFile(ctx, c, &guestv1.OpenFile{Path: []byte(p + "/new"), Write: true, Create: true})
	},
	"mkdir": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.MakeDirectory(ctx, &guestv1.MakeDirectoryRequest{Path: []byte(p + "/new"), Parents: true})
		return err
	},
	"remove": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.RemoveFile(ctx, &guestv1.RemoveFileRequest{Path: []byte(p + "/file"), Recursive: true})
		return err
	},
	"rename from": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.Rename(ctx, &guestv1.RenameRequest{Path: []byte(p + "/file"), NewPath: []byte(filepath.Dir(p) + "/taken")})
		return err
	},
	"rename to": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.Rename(ctx, &guestv1.RenameRequest{Path: []byte(filepath.Dir(p) + "/sub/spare"), NewPath: []byte(p + "/new")})
		return err
	},
	"chmod": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.SetAttributes(ctx, &guestv1.SetAttributesRequest{Path: []byte(p + "/file"), Follow: true, Mode: proto.Uint32(0o777)})
		return err
	},
	"link": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.MakeLink(ctx, &guestv1.MakeLinkRequest{Path: []byte(filepath.Dir(p) + "/taken"), Target: []byte(p + "/file"), Hard: true})
		return err
	},
	"mktemp": func(ctx context.Context, c guestv1.FileServiceClient, p string) error {
		_, err := c.MakeTemporary(ctx, &guestv1.MakeTemporaryRequest{Directory: []byte(p)})
		return err
	},
}

func readFile(ctx context.Context, c guestv1.FileServiceClient, p string) (data []byte, err error) {
	st, err := c.Read(ctx, &guestv1.ReadRequest{Path: []byte(p)})
	if err != nil {
		return nil, err
	}
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return data, nil
		} else if err != nil {
			return nil, err
		}
		data = append(data, m.GetPiece().GetData()...)
	}
}

func openFile(ctx context.Context, c guestv1.FileServiceClient, o *guestv1.OpenFile) error {
	st, err := c.Open(ctx)
	if err != nil {
		return err
	}
	if err := st.Send(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: o}}); err != nil {
		return err
	}
	_, err = st.Recv()
	return err
}

// confinedAgent returns an agent with a policy for one directory, which it returns,
// beside one with a secret.
func confinedAgent(t *testing.T) (a *Agent, l *peerListener, c guestv1.FileServiceClient, public, secret string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	public, secret = dir+"/public", dir+"/secret"
	for _, d := range []string{public + "/sub", secret} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, data := range map[string]string{secret + "/file": "secret contents", public + "/sub/file": "public contents", public + "/sub/spare": ""} {
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("[roles.a]\npeers=['root']\n[[roles.a.allow]]\nmethods=['FileService/*']\nread=[%q]\nwrite=[%q]\n", public, public)
	if err := os.WriteFile(dir+"/policy.toml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, l = serve(t, &Config{Policy: policy.Open(dir+"/policy.toml", discard())}, nil)
	return a, l, guestv1.NewFileServiceClient(client(t, l, unixPeer(0))), public, secret
}

// TestConfinedByPolicy: what a policy decides on a path holds when the path is used,
// though it leads elsewhere by then.
func TestConfinedByPolicy(t *testing.T) {
	a, l, c, public, secret := confinedAgent(t)
	g, err := guest.Dial(t.Context(), "confined", &guest.Config{Dialer: func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, unixPeer(0)) }})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	copied := func(path string) error {
		_, err := g.Files().CopyFrom(t.Context(), []string{path}, t.TempDir()+"/copy", nil)
		return err
	}
	for name, target := range map[string]string{"absolute": secret, "relative": "../secret", "inside": "sub"} {
		if err := os.Symlink(target, filepath.Join(public, name)); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := readFile(t.Context(), c, public+"/inside/file"); string(data) != "public contents" || err != nil {
		t.Errorf("by a link that stays inside: %q, %v", data, err)
	}
	for _, name := range []string{"stat", "list", "hash", "usage"} {
		if err := fileCalls[name](t.Context(), c, public+"/inside"); err != nil {
			t.Errorf("%s by a link that stays inside: %v", name, err)
		}
	}
	if err := copied(public + "/inside/file"); err != nil {
		t.Errorf("copy by a link that stays inside: %v", err)
	}
	if m, err := c.MakeTemporary(t.Context(), &guestv1.MakeTemporaryRequest{Directory: []byte(public + "/sub")}); err != nil || filepath.Dir(string(m.GetPath())) != public+"/sub" {
		t.Errorf("temporary file %q, %v", m.GetPath(), err)
	}
	if _, err := readFile(t.Context(), c, public+"/relative/file"); status.Code(err) != codes.PermissionDenied || detailOf(err).GetReason() != "denied" {
		t.Errorf("a link that leads out: %v", err)
	}
	// As if the links had been directories when the policy looked.
	a.guard.world.Resolve = func(p string) (string, error) { return p, nil }
	for name, do := range fileCalls {
		for _, link := range []string{"absolute", "relative"} {
			if err := do(t.Context(), c, filepath.Join(public, link)); err == nil {
				t.Errorf("%s through a link (%s) is possible", name, link)
			}
		}
	}
	for _, link := range []string{"absolute", "relative"} {
		if err := copied(filepath.Join(public, link, "file")); err == nil {
			t.Errorf("copying through a link (%s) is possible", link)
		}
		source := filepath.Join(public, "sub/spare")
		if _, err := g.Files().CopyTo(t.Context(), []string{source}, filepath.Join(public, link)+"/new", nil); err == nil {
			t.Errorf("copying to a link (%s) is possible", link)
		}
	}
	entries, err := os.ReadDir(secret)
	if err != nil || len(entries) != 1 {
		t.Errorf("there are %v beside it", entries)
	}
	data, err := os.ReadFile(secret + "/file")
	info, serr := os.Stat(secret + "/file")
	if err != nil || serr != nil || string(data) != "secret contents" || info.Mode() != 0o644 || info.Sys().(*syscall.Stat_t).Nlink != 1 {
		t.Errorf("the file is %q, %v, %v", data, info, err)
	}
}

// TestExchangedForALink has a user exchange a directory for a link all the time.
func TestExchangedForALink(t *testing.T) {
	_, _, c, public, secret := confinedAgent(t)
	if err := os.Symlink(secret, public+"/link"); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, public+"/sub", unix.AT_FDCWD, public+"/link", unix.RENAME_EXCHANGE)
		}
	}()
	read, refused := 0, 0
	for range 1000 {
		data, err := readFile(t.Context(), c, public+"/sub/file")
		switch {
		case err != nil:
			refused++
		case string(data) == "public contents":
			read++
		default:
			t.Fatalf("read %q", data)
		}
	}
	stop.Store(true)
	<-done
	t.Logf("%d read, %d refused", read, refused)
}

// TestPolicyBelowRoot: with a root of the file service, the paths of a policy begin
// there, as those of calls do.
func TestPolicyBelowRoot(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{"root/srv/file": "open", "root/srv/secret/key": "secret", "root/vault/file": "secret", "srv/file": "outside"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"root/srv/vault": "../vault", "root/srv/up": "../../../../srv", "root/srv/inside": "secret"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text := "[roles.a]\npeers=['root']\n[[roles.a.allow]]\nmethods=['FileService/*']\nread=['/srv']\n[[roles.a.deny]]\nread=['/srv/secret']\n"
	if err := os.WriteFile(dir+"/policy.toml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, l := serve(t, &Config{Policy: policy.Open(dir+"/policy.toml", discard()), File: &file.Config{Root: dir + "/root"}}, nil)
	c := guestv1.NewFileServiceClient(client(t, l, unixPeer(0)))
	if data, err := readFile(t.Context(), c, "/srv/file"); err != nil || string(data) != "open" {
		t.Errorf("a rule for /srv: %q, %v", data, err)
	}
	for _, path := range []string{"/srv/secret/key", "/srv/inside/key", "/srv/vault/file", "/srv/up/secret/key", dir + "/srv/file", "/vault/file", "/srv/../vault/file"} {
		if data, err := readFile(t.Context(), c, path); err == nil || string(data) != "" {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	st, err := c.List(t.Context(), &guestv1.ListRequest{Path: []byte("/srv"), Depth: 3})
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.Recv()
	if err != nil || len(m.GetFiles()) != 4 || len(m.GetFailures()) != 1 || string(m.GetFailures()[0].GetPath()) != "secret" || m.GetFailures()[0].GetReason() != "denied" {
		t.Errorf("the list: %v, %v", m, err)
	}
}
