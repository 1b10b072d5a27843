package guest_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

func TestCopyToGuest(t *testing.T) {
	one, two := dialAgent(t, startAgent(t)), dialAgent(t, startAgent(t))
	ctx := t.Context()
	src := makeTree(t)
	for _, archive := range []bool{false, true} {
		dst := filepath.Join(t.TempDir(), "new")
		var last guest.CopyProgress
		result, err := one.Files().CopyToGuest(ctx, []string{src + "/."}, two.Files(), dst,
			&guest.CopyOptions{Archive: archive, Progress: func(p guest.CopyProgress) { last = p }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(filepath.Join(dst, "a/b/c"), 0o755) })
		want := readTree(t, src)
		if !archive {
			for name, f := range want {
				f.Inode = 0
				want[name] = f
			}
		}
		if diff := cmp.Diff(want, readTree(t, dst)); diff != "" {
			t.Errorf("archive=%v: (-want +got)\n%.2000s", archive, diff)
		}
		if last.Bytes != result.Bytes || last.Bytes < 3<<20 || last.Files < 10 {
			t.Errorf("result %+v, progress %+v", result, last)
		}
		again, err := one.Files().CopyToGuest(ctx, []string{src + "/."}, two.Files(), dst, &guest.CopyOptions{Archive: archive, Resume: true, Checksum: true})
		if err != nil || again.Bytes != 0 || again.Skipped == 0 {
			t.Errorf("again: %+v, %v", again, err)
		}
	}

	bad := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(bad, "file"), []byte("x"), 0o644), os.Symlink("/etc/passwd", filepath.Join(bad, "link")),
		os.Symlink("..", filepath.Join(bad, "up")), os.Mkdir(filepath.Join(bad, "d"), 0o755), os.Symlink("../file", filepath.Join(bad, "d", "inside"))); err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	_, err := one.Files().CopyToGuest(ctx, []string{bad + "/."}, two.Files(), dst, nil)
	ce, ok := errors.AsType[*guest.CopyError](err)
	if !ok || ce.Failed != 2 || !strings.Contains(guest.Remedy(ce.Failures[0]), "outside-links") {
		t.Errorf("links out: %v", err)
	}
	if diff := cmp.Diff([]string{"d", "file"}, names(t, dst)); diff != "" {
		t.Errorf("links out: %s", diff)
	}
	_, err = one.Files().CopyToGuest(ctx, []string{bad + "/."}, two.Files(), dst, &guest.CopyOptions{OutsideLinks: true})
	if got := names(t, dst); err != nil || !slices.Contains(got, "link") || !slices.Contains(got, "up") {
		t.Errorf("links out, as asked for: %q, %v", got, err)
	}

	for _, tt := range []struct {
		name         string
		from         []string
		to           *guest.Guest
		dst          string
		reason, text string
	}{
		{"no source", []string{bad + "/none"}, two, dst, "not-found", one.Target()},
		{"no destination", []string{bad + "/file"}, two, dst + "/none/x", "not-found", two.Target()},
		{"two with one name", []string{bad + "/file", src + "/../" + filepath.Base(bad) + "/file"}, two, dst, "name-collision", ""},
		{"into itself", []string{bad}, one, bad + "/d", "into-itself", ""},
		{"onto itself", []string{bad}, one, bad, "into-itself", ""},
		{"contents into itself", []string{bad + "/."}, one, bad + "/d/e", "into-itself", ""},
		{"directory over a file", []string{bad + "/."}, two, dst + "/file", "not-a-directory", two.Target()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := one.Files().CopyToGuest(ctx, tt.from, tt.to.Files(), tt.dst, nil)
			e, ok := errors.AsType[*guest.Error](err)
			if !ok || e.Reason != tt.reason || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v", err)
			}
		})
	}
	if got := names(t, filepath.Join(bad, "d")); len(got) != 1 {
		t.Errorf("copied into itself: %q", got)
	}
	// Another place in the same guest.
	dst = t.TempDir()
	if _, err := one.Files().CopyToGuest(ctx, []string{src}, one.Files(), dst, nil); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dst, filepath.Base(src), "a/b/c"), 0o755) })
	noLeftovers(t, dst)
}

// resetLessAndLess resets all connections of v after a time, and again after a
// longer one each, until stop is called: on however slow a computer a copy gets on
// between two of them at last.
func resetLessAndLess(v *vmmtest.VMM, first time.Duration) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for wait := first; ; wait += wait / 4 {
			select {
			case <-end:
				return
			case <-time.After(wait):
				v.Reset()
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// TestCopyToGuestThroughResets copies a large file and some small ones between
// guests that both lose their connections.
func TestCopyToGuestThroughResets(t *testing.T) {
	size := int64(96 << 20)
	if stress {
		size = 2 << 30
	}
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	if err := os.MkdirAll(src, 0o755); err != nil {
		t.Fatal(err)
	}
	want := randomFile(t, filepath.Join(src, "large"), size)
	for _, name := range []string{"a", "b", "x", "y", "z"} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	vmm1, one, bytes1 := dialVMM(t)
	vmm2, two, bytes2 := dialVMM(t)
	bytes1.Store(0)
	bytes2.Store(0)
	stop1 := resetLessAndLess(vmm1, 110*time.Millisecond)
	stop2 := resetLessAndLess(vmm2, 170*time.Millisecond)
	result, err := one.Files().CopyToGuest(t.Context(), []string{src}, two.Files(), dst, nil)
	stop1()
	stop2()
	if err != nil {
		t.Fatal(err)
	}
	if got := hashFile(t, filepath.Join(dst, "large")); got != want {
		t.Error("the copy has another hash")
	}
	if diff := cmp.Diff([]string{"a", "b", "large", "x", "y", "z"}, names(t, dst)); diff != "" {
		t.Error(diff)
	}
	// What is under way at a reset is sent again.
	lost := int64(result.Resumed) * (6 << 20)
	for _, n := range []int64{bytes1.Load(), bytes2.Load()} {
		if float64(n) > 1.2*float64(size)+float64(lost) {
			t.Errorf("%d bytes for %d (resumed %d times)", n, size, result.Resumed)
		}
	}
	t.Logf("%+v, %d and %d bytes", result, bytes1.Load(), bytes2.Load())
	noLeftovers(t, dst)
}
