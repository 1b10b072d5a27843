package guest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// tarProgram runs tar(1).
func tarProgram(t *testing.T, stdin io.Reader, stdout io.Writer, args ...string) {
	t.Helper()
	name, err := exec.LookPath("tar")
	if err != nil {
		t.Skip(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		t.Errorf("tar %q: %v: %s", args, err, &stderr)
	}
}

// TestTarProgram has tar(1) pack what UnpackTar unpacks, and the reverse.
func TestTarProgram(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	src := makeTree(t)
	long := filepath.Join(src, strings.Repeat("d", 200), strings.Repeat("e", 200))
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(long, strings.Repeat("f", 255)), []byte("long"), 0o640); err != nil {
		t.Fatal(err)
	}
	// Root's tar sets owners, and umask does not count.
	check := func(t *testing.T, dir string, seconds bool) {
		t.Helper()
		t.Cleanup(func() { os.Chmod(filepath.Join(dir, "a/b/c"), 0o755) })
		want, got := readTree(t, src), readTree(t, dir)
		if seconds {
			for _, tree := range []fileTree{want, got} {
				for name, f := range tree {
					f.Time = f.Time.Truncate(time.Second)
					tree[name] = f
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%.2000s", diff)
		}
	}
	for _, format := range []string{"gnu", "pax"} {
		t.Run("unpack "+format, func(t *testing.T) {
			dst := t.TempDir()
			var archive bytes.Buffer
			tarProgram(t, nil, &archive, "--format="+format, "-S", "-cf", "-", "-C", src, ".")
			result, err := g.Files().UnpackTar(t.Context(), &archive, dst, &guest.CopyOptions{Sync: guest.SyncNone})
			if err != nil || archive.Len() > 0 {
				t.Errorf("%+v, %v, %d bytes left", result, err, archive.Len())
			}
			check(t, dst, format == "gnu")
			if st, err := os.Stat(filepath.Join(dst, "sparse")); err != nil || st.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
				t.Errorf("the sparse file is not sparse: %v", err)
			}
			if os.Geteuid() != 0 {
				return // the directory without permission to write
			}
			var again bytes.Buffer
			tarProgram(t, nil, &again, "--format=pax", "-cf", "-", "-C", src, ".")
			result, err = g.Files().UnpackTar(t.Context(), &again, dst, &guest.CopyOptions{Resume: true, Checksum: format == "pax"})
			// Small files of a GNU archive have whole seconds: another time.
			if err != nil || format == "pax" && (result.Bytes > 4<<20+8<<20 || result.Skipped == 0) {
				t.Errorf("again: %+v, %v", result, err)
			}
			check(t, dst, format == "gnu")
		})
	}
	for _, s := range []struct{ source, top string }{{src, filepath.Base(src)}, {src + "/.", "."}} {
		t.Run("pack "+s.top, func(t *testing.T) {
			dst := t.TempDir()
			var archive bytes.Buffer
			result, err := g.Files().PackTar(t.Context(), []string{s.source}, &archive, nil)
			if err != nil {
				t.Fatalf("%+v, %v", result, err)
			}
			tarProgram(t, &archive, nil, "-xpf", "-", "-C", dst)
			check(t, filepath.Join(dst, s.top), false)
		})
	}
}

// tarEntry is an entry of an archive that a test makes.
type tarEntry struct {
	tar.Header
	text string
}

// makeArchive makes an archive of entries; one without a type is a file.
func makeArchive(t *testing.T, entries ...tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.Size = int64(len(e.text))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestUnpackTar has archives of all kinds unpacked, most of them bad.
func TestUnpackTar(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	entry := func(name, text string) tarEntry { return tarEntry{tar.Header{Name: name}, text} }
	typed := func(typ byte, name, link string) tarEntry {
		return tarEntry{Header: tar.Header{Typeflag: typ, Name: name, Linkname: link, Mode: 0o755}}
	}
	large := strings.Repeat("large ", 100_000)
	cut := makeArchive(t, entry("whole", "whole"), entry("large", large))
	tests := map[string]struct {
		archive  []byte
		opts     guest.CopyOptions
		failures []string          // texts of the failures, or of the error
		want     map[string]string // files and their contents, beside "keep"
	}{
		"plain": {archive: makeArchive(t, typed(tar.TypeDir, "./", ""), typed(tar.TypeDir, "./d/", ""), entry("./d/f", "x"), entry("g", large)),
			want: map[string]string{"d/f": "x", "g": large}},
		"no directories in it": {archive: makeArchive(t, entry("a/b/c", "x")), want: map[string]string{"a/b/c": "x"}},
		"any order":            {archive: makeArchive(t, entry("b/2", "2"), entry("a", "1"), entry("b/1", "3")), want: map[string]string{"b/2": "2", "a": "1", "b/1": "3"}},
		"a name twice":         {archive: makeArchive(t, entry("f", "first"), entry("f", "second")), want: map[string]string{"f": "second"}},
		"a name twice, large":  {archive: makeArchive(t, entry("f", "first"), entry("f", large)), want: map[string]string{"f": large}},
		"a link, then a file":  {archive: makeArchive(t, typed(tar.TypeSymlink, "f", "g"), entry("f", "x")), want: map[string]string{"f": "x"}},
		"a file, then a link":  {archive: makeArchive(t, entry("g", "x"), entry("f", "y"), typed(tar.TypeSymlink, "f", "g")), want: map[string]string{"g": "x", "f": "x"}},
		"hard link":            {archive: makeArchive(t, entry("f", "x"), typed(tar.TypeLink, "./l", "./f")), want: map[string]string{"f": "x", "l": "x"}},
		"hard link to a link that was there": {archive: makeArchive(t, typed(tar.TypeLink, "l", "out/secret")),
			failures: []string{"link"}},
		"hard link out":          {archive: makeArchive(t, typed(tar.TypeLink, "l", "../secret")), failures: []string{"bad-name"}},
		"hard link to the top":   {archive: makeArchive(t, typed(tar.TypeLink, "l", ".")), failures: []string{"the top"}},
		"old contents replaced":  {archive: makeArchive(t, entry("keep", "new")), want: map[string]string{"keep": "new"}},
		"absolute":               {archive: makeArchive(t, entry("/etc/x", "x"), entry("f", "y")), failures: []string{"absolute"}, want: map[string]string{"f": "y"}},
		"dot dot":                {archive: makeArchive(t, entry("../x", "x"), entry("a/../../y", "x"), entry("f", "y")), failures: []string{"../x", "a/../../y"}, want: map[string]string{"f": "y"}},
		"name too long":          {archive: makeArchive(t, entry(strings.Repeat("n", 256), "x"), entry("f", "y")), failures: []string{"256 bytes"}, want: map[string]string{"f": "y"}},
		"through a link in it":   {archive: makeArchive(t, typed(tar.TypeSymlink, "l", "d"), entry("l/x", "evil")), failures: []string{"symbolic link is in the way"}},
		"through a link there":   {archive: makeArchive(t, entry("out/x", "evil")), failures: []string{"symbolic link is in the way"}},
		"over a link there":      {archive: makeArchive(t, entry("out", "evil")), want: map[string]string{"out": "evil"}},
		"link out":               {archive: makeArchive(t, typed(tar.TypeSymlink, "l", "/etc/passwd"), typed(tar.TypeSymlink, "m", "../x")), failures: []string{"outside", "outside"}},
		"link out, as asked for": {archive: makeArchive(t, typed(tar.TypeSymlink, "l", "/dev/null")), opts: guest.CopyOptions{OutsideLinks: true}, want: map[string]string{"l": ""}},
		"device":                 {archive: makeArchive(t, typed(tar.TypeChar, "c", ""), typed(tar.TypeBlock, "b", ""), typed(tar.TypeFifo, "p", "")), failures: []string{"device", "device", "FIFO"}},
		"another type":           {archive: makeArchive(t, typed('V', "volume", "")), failures: []string{"type"}},
		"file at the top":        {archive: makeArchive(t, entry(".", "x")), failures: []string{"top"}},
		"temporary name":         {archive: makeArchive(t, entry(".vsockrpc-0000000000000000-000000000000.part", "x")), failures: []string{"unfinished"}},
		"global header":          {archive: append(globalHeader(t), makeArchive(t, entry("f", "x"))...), want: map[string]string{"f": "x"}},
		"cut in a file":          {archive: cut[:300_000], failures: []string{"ends too early"}, want: map[string]string{"whole": "whole"}},
		"cut in a small file":    {archive: makeArchive(t, entry("f", "x"), entry("g", strings.Repeat("g", 5000)))[:512+512+512+1000], failures: []string{"ends too early"}, want: map[string]string{"f": "x"}},
		"cut between files":      {archive: makeArchive(t, entry("f", "x"))[:1024], failures: []string{"ends too early"}, want: map[string]string{"f": "x"}},
		"damaged":                {archive: append(makeArchive(t, entry("f", "x"))[:1024], bytes.Repeat([]byte{7}, 2048)...), failures: []string{"damaged"}, want: map[string]string{"f": "x"}},
		"nothing":                {failures: []string{"nothing in it"}},
		"text":                   {archive: []byte("not an archive\n"), failures: []string{"no tar archive"}},
		"noise":                  {archive: bytes.Repeat([]byte("noise!"), 1000), failures: []string{"no tar archive"}},
		"compressed":             {archive: []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00"), failures: []string{"compressed with gzip"}},
		"only its end":           {archive: makeArchive(t)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			dst, outside := filepath.Join(dir, "dst"), filepath.Join(dir, "outside")
			if err := errors.Join(os.Mkdir(dst, 0o755), os.Mkdir(outside, 0o755), os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600),
				os.WriteFile(filepath.Join(dst, "keep"), []byte("old"), 0o644), os.Symlink(outside, filepath.Join(dst, "out"))); err != nil {
				t.Fatal(err)
			}
			for _, resume := range []bool{false, true} {
				opts := tt.opts
				opts.Resume = resume
				_, err := g.Files().UnpackTar(t.Context(), bytes.NewReader(tt.archive), dst, &opts)
				failures := []error{err}
				if ce, ok := errors.AsType[*guest.CopyError](err); ok {
					failures = ce.Failures
				}
				if err == nil {
					failures = nil
				}
				if len(failures) != len(tt.failures) {
					t.Fatalf("resume=%v: %d failures, want %d: %v", resume, len(failures), len(tt.failures), failures)
				}
				for i, f := range failures {
					if !strings.Contains(f.Error(), tt.failures[i]) && tt.failures[i] != "bad-name" {
						t.Errorf("failure %q, want %q", f, tt.failures[i])
					}
				}
				for name, text := range tt.want {
					if got, err := os.ReadFile(filepath.Join(dst, name)); err != nil || string(got) != text {
						t.Errorf("resume=%v: %s: %.20q, %v, want %.20q", resume, name, got, err, text)
					}
				}
			}
			if _, ok := tt.want["keep"]; !ok {
				if got, err := os.ReadFile(filepath.Join(dst, "keep")); err != nil || string(got) != "old" {
					t.Errorf("keep: %q, %v", got, err)
				}
			}
			if diff := cmp.Diff([]string{"secret"}, names(t, outside)); diff != "" {
				t.Errorf("outside of the destination: %s", diff)
			}
			if diff := cmp.Diff([]string{"dst", "outside"}, names(t, dir)); diff != "" {
				t.Errorf("beside the destination: %s", diff)
			}
			noLeftovers(t, dst)
		})
	}
}

// globalHeader is how an archive of git begins, without its end.
func globalHeader(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "of git"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// TestUnpackTarOwners keeps owners, modes and attributes as asked for.
func TestUnpackTarOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	g := dialAgent(t, startAgent(t))
	archive := makeArchive(t, tarEntry{tar.Header{Name: "f", Mode: 0o4750, Uid: 1234, Gid: 5678, PAXRecords: map[string]string{
		"SCHILY.xattr.user.a": "b", "SCHILY.xattr.security.capability": "evil"}}, "x"})
	for _, tt := range []struct {
		opts  guest.CopyOptions
		mode  fs.FileMode
		owner [2]uint32
	}{
		{guest.CopyOptions{}, 0o750, [2]uint32{0, 0}},
		{guest.CopyOptions{Archive: true}, 0o750, [2]uint32{1234, 5678}},
		{guest.CopyOptions{Archive: true, KeepSetuid: true}, 0o750 | fs.ModeSetuid, [2]uint32{1234, 5678}},
	} {
		dst := t.TempDir()
		if _, err := g.Files().UnpackTar(t.Context(), bytes.NewReader(archive), dst, &tt.opts); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dst, "f"))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode() != tt.mode || [2]uint32{st.Uid, st.Gid} != tt.owner {
			t.Errorf("%+v: %v, owner %d:%d", tt.opts, info.Mode(), st.Uid, st.Gid)
		}
		attrs, err := g.Files().Xattrs(t.Context(), filepath.Join(dst, "f"))
		if err != nil || attrs["security.capability"] != nil {
			t.Errorf("attributes: %q, %v", attrs, err)
		}
	}
}

// TestTarEndsWithContext ends copies whose other end neither reads nor writes.
func TestTarEndsWithContext(t *testing.T) {
	g := dialAgent(t, startAgent(t))
	src := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(src, make([]byte, 32<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer r.Close()
	packed := make(chan error, 1)
	go func() {
		_, err := g.Files().PackTar(ctx, []string{src}, w, nil)
		packed <- err
	}()
	if _, err := io.ReadFull(r, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-packed; !errors.Is(err, context.Canceled) {
		t.Errorf("PackTar: %v", err)
	}

	dst := t.TempDir()
	ctx, cancel = context.WithCancel(t.Context())
	r, w = io.Pipe()
	defer w.Close()
	unpacked := make(chan error, 1)
	go func() {
		_, err := g.Files().UnpackTar(ctx, r, dst, nil)
		unpacked <- err
	}()
	if _, err := w.Write(makeArchive(t, tarEntry{tar.Header{Name: "f"}, strings.Repeat("x", 1<<20)})[:600_000]); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-unpacked; !errors.Is(err, context.Canceled) {
		t.Errorf("UnpackTar: %v", err)
	}
}

// TestPackTarThroughResets packs large and small files through a VMM that resets
// its connections: the archive is the one that it would have been.
func TestPackTarThroughResets(t *testing.T) {
	src := t.TempDir()
	for _, name := range []string{"a/1", "a/2", "b", "c/3", "c/4"} {
		if err := os.MkdirAll(filepath.Join(src, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a/large", "z"} {
		randomFile(t, filepath.Join(src, name), 48<<20)
	}
	if err := os.Link(filepath.Join(src, "a/1"), filepath.Join(src, "z2")); err != nil {
		t.Fatal(err)
	}
	vmm, g, _ := dialVMM(t)
	pack := func() [32]byte {
		h := sha256.New()
		result, err := g.Files().PackTar(t.Context(), []string{src}, h, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", result)
		return [32]byte(h.Sum(nil))
	}
	want := pack()
	defer resetLessAndLess(vmm, 50*time.Millisecond)()
	if got := pack(); got != want {
		t.Error("the archive is another one")
	}
}

// TestUnpackTarCut has the connection break in an archive.
func TestUnpackTarCut(t *testing.T) {
	vmm, g, _ := dialVMM(t)
	dst := t.TempDir()
	r, w := io.Pipe()
	defer r.Close()
	archive := makeArchive(t, tarEntry{tar.Header{Name: "first"}, strings.Repeat("x", 10<<20)}, tarEntry{tar.Header{Name: "second"}, strings.Repeat("y", 10<<20)})
	go func() {
		// First is whole when this is read.
		w.Write(archive[:18<<20])
		vmm.SetFaults(vmmtest.Faults{ResetEvery: time.Millisecond})
		w.Write(archive[18<<20:])
		w.Close()
	}()
	_, err := g.Files().UnpackTar(t.Context(), r, dst, nil)
	vmm.SetFaults(vmmtest.Faults{})
	e, ok := errors.AsType[*guest.Error](err)
	if !ok || !strings.Contains(e.Remedy, "--resume") {
		t.Fatalf("%v", err)
	}
	result, err := g.Files().UnpackTar(t.Context(), bytes.NewReader(archive), dst, &guest.CopyOptions{Resume: true})
	if err != nil || result.Skipped > 2 {
		t.Errorf("again: %+v, %v", result, err)
	}
	for name, c := range map[string]string{"first": "x", "second": "y"} {
		if data, err := os.ReadFile(filepath.Join(dst, name)); err != nil || string(data) != strings.Repeat(c, 10<<20) {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
	noLeftovers(t, dst)
}
