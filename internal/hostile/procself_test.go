//go:build linux

package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// TestAgentsOwnFiles: a call that acts as a user reaches nothing of the agent's by
// /proc/self, such as what it has open for others, whoever may read it once there.
func TestAgentsOwnFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	f := newFortress(t, "ops", &agent.Config{})
	dir, theirs := t.TempDir(), t.TempDir()
	plant(t, dir, map[string]string{"secret": secret})
	for _, err := range []error{os.Chmod(dir, 0o700), os.Chmod(filepath.Dir(theirs), 0o755), os.Chmod(theirs, 0o777), os.Symlink("loop", theirs+"/loop")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, greedy := rpc.NewClient(f.root, nil), f.withKey(t, greedyKey)
	defer root.Close()
	defer greedy.Close()
	st, err := guestv1.NewFileServiceClient(root).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := &guestv1.OpenFile{Path: []byte(dir + "/secret"), Read: true}
	if err := st.Send(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: open}}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	files, who := guestv1.NewFileServiceClient(greedy), &guestv1.Subject{User: fmt.Append(nil, someUser)}
	number := ""
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if target, _ := os.Readlink("/proc/self/fd/" + n.Name()); target == dir+"/secret" {
			number = n.Name()
		}
	}
	if number == "" {
		t.Fatal("the agent has not opened it")
	}
	if err := os.Symlink("/proc/self/fd/"+number, theirs+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/proc/self/fd/" + number, "/proc/thread-self/fd/" + number, fmt.Sprintf("/proc/%d/fd/%s", os.Getpid(), number), "/dev/fd/" + number,
		theirs + "/link", "/proc/self/maps", "/proc/self/task/../maps", "/proc/self/root/proc/self/maps", fmt.Sprintf("/proc/%d/maps", os.Getpid()),
	} {
		if r, err := files.Hash(t.Context(), &guestv1.HashRequest{Subject: who, Path: []byte(path)}); err == nil {
			t.Errorf("hash of %s: %v", path, r)
		}
	}
	// What is the user's own goes on as ever.
	for _, err := range []error{
		func() error {
			_, err := files.MakeDirectory(t.Context(), &guestv1.MakeDirectoryRequest{Subject: who, Path: []byte(theirs + "/d")})
			return err
		}(),
		func() error {
			_, err := files.Hash(t.Context(), &guestv1.HashRequest{Subject: who, Path: []byte("/proc/1/status")})
			return err
		}(),
		func() error {
			_, err := files.ReadLink(t.Context(), &guestv1.ReadLinkRequest{Subject: who, Path: []byte(theirs + "/loop")})
			return err
		}(),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
