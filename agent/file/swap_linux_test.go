package file_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestConfinedSwaps has a confined service write, read and remove below a
// directory that somebody of the guest exchanges, all the while, for a link that
// leads out: what is outside is never read, and never changed.
func TestConfinedSwaps(t *testing.T) {
	attempts := 1000
	if os.Getenv("VSOCKRPC_STRESS") != "" {
		attempts = 10_000
	}
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	if err := errors.Join(os.MkdirAll(root+"/d/sub", 0o755), os.MkdirAll(outside+"/sub", 0o755), os.Symlink("../outside", root+"/l")); err != nil {
		t.Fatal(err)
	}
	write(t, outside+"/file", "secret")
	write(t, outside+"/sub/file", "secret")
	before := snapshot(t, outside)
	_, c := serve(t, root)
	ctx := t.Context()

	done := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, root+"/d", unix.AT_FDCWD, root+"/l", unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
					return
				}
				// Nobody else would get at a directory that is renamed all the time.
				time.Sleep(time.Duration(rand.Int64N(int64(100 * time.Microsecond))))
			}
		}
	})
	inside := func(data []byte) {
		if strings.Contains(string(data), "secret") {
			t.Errorf("read what is outside: %q", data)
		}
	}
	calls := []struct {
		name string
		call func() error
	}{
		{"create", func() error {
			return openVerb(&guestv1.OpenFile{Write: true, Create: true, Truncate: true})(ctx, c, []byte("/d/file"))
		}},
		{"create below", func() error {
			return openVerb(&guestv1.OpenFile{Write: true, Create: true, Truncate: true})(ctx, c, []byte("/d/sub/file"))
		}},
		{"create what is new", func() error {
			return openVerb(&guestv1.OpenFile{Write: true, Create: true, Exclusive: true})(ctx, c, []byte("/d/new"))
		}},
		{"read", func() error {
			st, err := c.Read(ctx, &guestv1.ReadRequest{Path: []byte("/d/sub/file")})
			for err == nil {
				var m *guestv1.ReadResponse
				if m, err = st.Recv(); err == nil {
					inside(m.GetPiece().GetData())
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}},
		{"list", func() error {
			st, err := c.List(ctx, &guestv1.ListRequest{Path: []byte("/"), Depth: 9})
			for err == nil {
				var m *guestv1.ListResponse
				if m, err = st.Recv(); err == nil {
					for _, f := range m.Files {
						if f.Size == uint64(len("secret")) && strings.HasSuffix(string(f.Path), "file") {
							t.Errorf("listed what is outside: %s", f.Path)
						}
					}
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}},
		{"chmod", func() error {
			return setVerb(&guestv1.SetAttributesRequest{Follow: true, Mode: proto.Uint32(0o700)})(ctx, c, []byte("/d/file"))
		}},
		{"chmod of itself", func() error {
			return setVerb(&guestv1.SetAttributesRequest{Follow: true, Mode: proto.Uint32(0o711)})(ctx, c, []byte("/d"))
		}},
		{"truncate", func() error {
			return setVerb(&guestv1.SetAttributesRequest{Follow: true, Size: proto.Uint64(3)})(ctx, c, []byte("/d/file"))
		}},
		{"utimes", func() error {
			return setVerb(&guestv1.SetAttributesRequest{ModifiedUnixNanos: proto.Int64(1e9)})(ctx, c, []byte("/d/sub/file"))
		}},
		{"hard link", func() error {
			_, err := c.MakeLink(ctx, &guestv1.MakeLinkRequest{Path: []byte("/d/hard"), Target: []byte("/d/file"), Hard: true})
			return err
		}},
		{"symlink", func() error {
			_, err := c.MakeLink(ctx, &guestv1.MakeLinkRequest{Path: []byte("/d/soft"), Target: []byte("file")})
			return err
		}},
		{"mkdir -p", func() error {
			_, err := c.MakeDirectory(ctx, &guestv1.MakeDirectoryRequest{Path: []byte("/d/p/q/r"), Parents: true})
			return err
		}},
		{"rename", func() error {
			_, err := c.Rename(ctx, &guestv1.RenameRequest{Path: []byte("/d/file"), NewPath: []byte("/d/sub/file"), NoReplace: true})
			return err
		}},
		{"rename over", func() error {
			_, err := c.Rename(ctx, &guestv1.RenameRequest{Path: []byte("/d/file"), NewPath: []byte("/d/sub/file")})
			return err
		}},
		{"mktemp", func() error {
			_, err := c.MakeTemporary(ctx, &guestv1.MakeTemporaryRequest{Directory: []byte("/d")})
			return err
		}},
		{"remove", func() error {
			_, err := c.RemoveFile(ctx, &guestv1.RemoveFileRequest{Path: []byte("/d/file")})
			return err
		}},
		{"remove all below", func() error {
			_, err := c.RemoveFile(ctx, &guestv1.RemoveFileRequest{Path: []byte("/d/p"), Recursive: true, MissingOk: true})
			return err
		}},
		{"remove all, itself among it", func() error {
			_, err := c.RemoveFile(ctx, &guestv1.RemoveFileRequest{Path: []byte("/d/sub"), Recursive: true, MissingOk: true})
			if err == nil {
				// A directory again, where there is one.
				_, err = c.MakeDirectory(ctx, &guestv1.MakeDirectoryRequest{Path: []byte("/d/sub"), Parents: true})
			}
			return err
		}},
	}
	reasons := make(map[string]int)
	for i := range attempts {
		reasons[reasonOf(calls[i%len(calls)].call())]++
	}
	close(done)
	swapper.Wait()
	if after := snapshot(t, outside); after != before {
		t.Errorf("outside:\n%s\nbefore:\n%s", after, before)
	}
	t.Logf("how the calls ended: %v", reasons)
}
