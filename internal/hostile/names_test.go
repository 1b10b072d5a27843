//go:build linux

package hostile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// TestPathsThatEndEarly: the kernel takes the path of a socket to end at a byte 0, and
// so is asked for none that a rule has read otherwise.
func TestPathsThatEndEarly(t *testing.T) {
	for name, rules := range map[string]string{
		"denied":      "profile = 'ops'\n[[roles.mallory.deny]]\ndial = ['unix:DIR/s']\nlisten = ['unix:DIR/s']\n",
		"not allowed": "[[roles.mallory.allow]]\nmethods = ['ForwardService/*']\ndial = ['unix:DIR/*.pub']\nlisten = ['unix:DIR/*.pub']\n",
		"no rule":     "profile = 'ops'\n",
	} {
		t.Run(name, func(t *testing.T) {
			m, dir := attack(t, rules)
			for _, address := range []string{"/s\x00", "/s\x00.pub", "/s\x00/x"} {
				ctx, cancel := context.WithCancel(t.Context())
				st, err := m.forward.Listen(ctx, &guestv1.ListenRequest{Network: "unix", Address: []byte(dir + address)})
				if err == nil {
					_, err = st.Recv()
				}
				if entries, _ := os.ReadDir(dir); err == nil || len(entries) > 0 {
					t.Errorf("listening at %q: %v, %v", address, err, entries)
				}
				cancel()
				if c, err := m.DialContext(t.Context(), "unix", dir+address); err == nil {
					c.Close()
					t.Errorf("connecting to %q", address)
				}
			}
		})
	}
}

// TestLinksToNowhere: a link that leads to what is not there yet, where a rule denies
// everything, makes nothing there.
func TestLinksToNowhere(t *testing.T) {
	m, dir := attack(t, "profile = 'full'\n[[roles.mallory.deny]]\nwrite = ['DIR/vault']\n")
	for _, d := range []string{"vault", "pub"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"absolute": dir + "/vault/new", "relative": "../vault/new", "twice": "absolute", "dots": "./../pub/.././vault/new"} {
		if err := os.Symlink(target, filepath.Join(dir, "pub", name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"absolute", "relative", "twice", "dots"} {
		path := filepath.Join(dir, "pub", name)
		st, err := m.files.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		open := &guestv1.OpenFile{Path: []byte(path), Write: true, Create: true}
		if err := st.Send(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: open}}); err != nil {
			t.Fatal(err)
		}
		_, err = st.Recv()
		if entries, _ := os.ReadDir(dir + "/vault"); !denied(err) || len(entries) > 0 {
			t.Errorf("opening by %s: %v, %v", name, err, entries)
		}
	}
}

// TestRefusalsTellNothing: a refusal is the same whatever is at a path that the caller
// may not look at.
func TestRefusalsTellNothing(t *testing.T) {
	m, dir := attack(t, "[[roles.mallory.allow]]\nmethods = ['FileService/*']\nread = ['DIR/pub']\n")
	plant(t, dir, map[string]string{"pub/x": "", "vault/is-a-file": "", "vault/directory/x": ""})
	for name, target := range map[string]string{"link": "/etc/where-it-leads/x", "up": "../pub/x", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, "vault", name)); err != nil {
			t.Fatal(err)
		}
	}
	refusal := func(name string) string {
		path := dir + "/vault/" + name
		r, err := m.files.Stat(t.Context(), &guestv1.StatRequest{Path: []byte(path)})
		if err == nil {
			t.Fatalf("%s: %v", path, r)
		}
		text := err.Error()
		for _, d := range status.Convert(err).Details() {
			if d, ok := d.(*guestv1.ErrorDetail); ok {
				text += d.GetRemedy()
			}
		}
		return strings.ReplaceAll(text, name, "NAME")
	}
	nothing := refusal("nothing")
	for _, name := range []string{"is-a-file", "directory", "link", "up", "loop"} {
		if got := refusal(name); got != nothing {
			t.Errorf("of %s it says\n%s\nof nothing\n%s", name, got, nothing)
		}
	}
	for _, name := range []string{"is-a-file", "directory", "link", "up", "loop"} {
		if got, want := refusal(name+"/y"), refusal("nothing/y"); strings.ReplaceAll(got, name, "nothing") != want && strings.ReplaceAll(got, "NAME", "") != strings.ReplaceAll(want, "NAME", "") {
			t.Errorf("beneath %s it says\n%s\nbeneath nothing\n%s", name, got, want)
		}
	}
}

// TestSlowDecision: while it is decided on a call whose paths lead to a file system
// that does not answer, the rights of others end as ever.
func TestSlowDecision(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	hung, err := MountHung(dir, someUser, someUser, true)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { hung.Close() })
	f := newFortressWith(t, fmt.Sprintf("[roles.greedy]\n[[roles.greedy.allow]]\nmethods = ['FileService/*']\nread = [%q]\n", dir), &agent.Config{})
	greedy, full, root := f.withKey(t, greedyKey), f.withKey(t, fullKey), rpc.NewClient(f.root, nil)
	defer greedy.Close()
	defer full.Close()
	defer root.Close()
	// What all those paths take is far more than the test waits for.
	slow, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := &guestv1.DownloadOpen{TransferId: make([]byte, 16)}
	for i := range 60 {
		open.Sources = append(open.Sources, &guestv1.Source{Path: fmt.Append(nil, dir, "/", i)})
	}
	st, err := guestv1.NewFileServiceClient(greedy).Download(slow)
	if err == nil {
		err = st.Send(&guestv1.DownloadRequest{Message: &guestv1.DownloadRequest_Open{Open: open}})
	}
	if err != nil {
		t.Fatal(err)
	}
	<-hung.Asked()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	watch, err := guestv1.NewProcessServiceClient(full).WatchSessions(ctx, &guestv1.WatchSessionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil {
		t.Fatal(err)
	}
	if _, err := guestv1.NewControlServiceClient(root).RemoveHostKey(ctx, &guestv1.RemoveHostKeyRequest{Fingerprint: keys.PublicOf(fullKey).Fingerprint()}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a revoked key's watch: %v", err)
	}
}
