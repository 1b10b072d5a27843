package file_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func owner(info fs.FileInfo) string {
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprint(st.Uid, st.Gid, st.Nlink)
}

// confined makes a directory to confine a service to, with all kinds of ways out
// of it, beside one that the service must not reach.
func confined(t *testing.T) (root, outside string) {
	t.Helper()
	dir := t.TempDir()
	root, outside = filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	for _, d := range []string{root + "/sub/deep", root + "/tmp", outside + "/dir"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root+"/file", "inside")
	write(t, root+"/sub/inner", "inner")
	write(t, outside+"/secret", "secret")
	for name, target := range map[string]string{
		"link":       "file",    // inside
		"dirlink":    "sub",     // inside
		"sub/back":   "../file", // inside, by way of the directory above
		"loop":       "loop",    // to itself
		"abs":        outside + "/secret",
		"absdir":     outside,
		"absroot":    "/",
		"absinside":  root + "/file", // absolute, though what it names is inside
		"rel":        "../outside/secret",
		"reldir":     "../outside",
		"up":         "..",
		"sub/deeper": "../../outside",
		"chain":      "dirlink/deeper", // by another link
		"dangling":   "../outside/new", // to what is not there
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return root, outside
}

// verb is a call that does something with the file, or the directory, of a path.
type verb struct {
	name string
	call func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error
}

// following are the calls that look at what a link leads to.
var following = []verb{
	{"stat", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.Stat(ctx, &guestv1.StatRequest{Path: path, Follow: true})
		return err
	}},
	{"list", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		st, err := c.List(ctx, &guestv1.ListRequest{Path: path, Depth: 9})
		return drain(st, err)
	}},
	{"df", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.DiskFree(ctx, &guestv1.DiskFreeRequest{Path: path})
		return err
	}},
	{"listxattr", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.ListXattrs(ctx, &guestv1.ListXattrsRequest{Path: path, Follow: true})
		return err
	}},
	{"setxattr", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.SetXattr(ctx, &guestv1.SetXattrRequest{Path: path, Follow: true, Name: []byte("user.x"), Value: []byte("x")})
		return err
	}},
	{"read", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		st, err := c.Read(ctx, &guestv1.ReadRequest{Path: path})
		return drain(st, err)
	}},
	{"hash", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.Hash(ctx, &guestv1.HashRequest{Path: path})
		return err
	}},
	{"open to read", openVerb(&guestv1.OpenFile{Read: true})},
	{"open to write", openVerb(&guestv1.OpenFile{Write: true, Create: true, Truncate: true})},
	{"chmod", setVerb(&guestv1.SetAttributesRequest{Follow: true, Mode: proto.Uint32(0o777)})},
	{"chown", setVerb(&guestv1.SetAttributesRequest{Follow: true, User: []byte("4242"), Group: []byte("4242")})},
	{"truncate", setVerb(&guestv1.SetAttributesRequest{Follow: true, Size: proto.Uint64(0)})},
	{"chtimes", setVerb(&guestv1.SetAttributesRequest{Follow: true, ModifiedUnixNanos: proto.Int64(1e9), AccessedUnixNanos: proto.Int64(1e9)})},
	{"mkdir -p", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.MakeDirectory(ctx, &guestv1.MakeDirectoryRequest{Path: append(path, "/x/y"...), Parents: true})
		return err
	}},
	{"mktemp", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.MakeTemporary(ctx, &guestv1.MakeTemporaryRequest{Directory: path})
		return err
	}},
	{"watch", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		st, err := c.Watch(ctx, &guestv1.WatchRequest{Path: path, Recursive: true})
		if err == nil {
			_, err = st.Recv()
		}
		return err
	}},
}

// naming are the calls that look at a name itself, not at what a link with this
// name leads to.
var naming = []verb{
	{"lstat", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.Stat(ctx, &guestv1.StatRequest{Path: path})
		return err
	}},
	{"readlink", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.ReadLink(ctx, &guestv1.ReadLinkRequest{Path: path})
		return err
	}},
	{"du", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.DiskUsage(ctx, &guestv1.DiskUsageRequest{Path: path})
		return err
	}},
	{"lchown", setVerb(&guestv1.SetAttributesRequest{User: []byte("4242"), Group: []byte("4242")})},
	{"lutimes", setVerb(&guestv1.SetAttributesRequest{ModifiedUnixNanos: proto.Int64(1e9)})},
	{"hard link to it", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.MakeLink(ctx, &guestv1.MakeLinkRequest{Path: []byte("/hard"), Target: path, Hard: true})
		return err
	}},
	{"rename", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.Rename(ctx, &guestv1.RenameRequest{Path: path, NewPath: []byte("/renamed")})
		return err
	}},
	{"rename and replace nothing", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.Rename(ctx, &guestv1.RenameRequest{Path: []byte("/renamed"), NewPath: path, NoReplace: true})
		if reasonOf(err) == "exists" {
			return nil // so it looked at the name
		}
		return err
	}},
	{"rename to it", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		m, err := c.MakeTemporary(ctx, &guestv1.MakeTemporaryRequest{})
		if err == nil {
			_, err = c.Rename(ctx, &guestv1.RenameRequest{Path: m.Path, NewPath: path})
		}
		return err
	}},
	{"remove", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.RemoveFile(ctx, &guestv1.RemoveFileRequest{Path: path})
		return err
	}},
}

// making are the calls that make a name.
var making = []verb{
	{"mkdir", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.MakeDirectory(ctx, &guestv1.MakeDirectoryRequest{Path: path})
		return err
	}},
	{"symlink", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.MakeLink(ctx, &guestv1.MakeLinkRequest{Path: path, Target: []byte("file")})
		return err
	}},
	{"hard link", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.MakeLink(ctx, &guestv1.MakeLinkRequest{Path: path, Target: []byte("/file"), Hard: true})
		return err
	}},
	{"open and create", openVerb(&guestv1.OpenFile{Write: true, Create: true, Exclusive: true})},
	{"rename there", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.Rename(ctx, &guestv1.RenameRequest{Path: []byte("/file"), NewPath: path})
		return err
	}},
	{"rename there, replacing nothing", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.Rename(ctx, &guestv1.RenameRequest{Path: []byte("/file"), NewPath: path, NoReplace: true})
		return err
	}},
	{"remove all", func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		_, err := c.RemoveFile(ctx, &guestv1.RemoveFileRequest{Path: path, Recursive: true, MissingOk: true})
		return err
	}},
}

func openVerb(o *guestv1.OpenFile) func(context.Context, guestv1.FileServiceClient, []byte) error {
	return func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		st, err := c.Open(ctx)
		if err != nil {
			return err
		}
		m := proto.CloneOf(o)
		m.Path = path
		if err := st.Send(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: m}}); err != nil {
			return err
		}
		_, err = st.Recv()
		return err
	}
}

func setVerb(r *guestv1.SetAttributesRequest) func(context.Context, guestv1.FileServiceClient, []byte) error {
	return func(ctx context.Context, c guestv1.FileServiceClient, path []byte) error {
		m := proto.CloneOf(r)
		m.Path = path
		_, err := c.SetAttributes(ctx, m)
		return err
	}
}

// TestConfined has every call try every way out of a confined service: each is
// refused, in the same words, and nothing outside has changed, not even a time.
func TestConfined(t *testing.T) {
	root, outside := confined(t)
	_, c := serve(t, root)
	before := snapshot(t, outside)
	refused := func(t *testing.T, v verb, path string, want ...string) {
		t.Helper()
		err := v.call(t.Context(), c, []byte(path))
		ok := false
		for _, w := range want {
			ok = ok || reasonOf(err) == w
		}
		if !ok {
			t.Errorf("%s %s: %v (%s), want %s", v.name, path, err, reasonOf(err), want)
		}
	}
	dirs := []string{"/../outside", "../outside", "/absdir", "/reldir", "/sub/../../outside", "/up/outside", "/chain", "/sub/deeper", "/dirlink/deeper",
		"/sub/deep/../../../outside", "/reldir/.", "/absroot" + outside, "/up/root/../outside", "//../outside", "/./../outside"}
	for _, dir := range dirs {
		for _, v := range append(append([]verb{}, following...), naming...) {
			refused(t, v, dir+"/secret", "link-outside")
		}
		for _, v := range making {
			refused(t, v, dir+"/new", "link-outside")
		}
	}
	for _, link := range []string{"/abs", "/absdir", "/absroot", "/absinside", "/rel", "/reldir", "/up", "/chain", "/dangling", "/.."} {
		for _, v := range following {
			refused(t, v, link, "link-outside")
		}
	}
	for _, v := range following {
		refused(t, v, "/loop", "link-loop", "link-outside")
	}
	if after := snapshot(t, outside); after != before {
		t.Errorf("outside:\n%s\nbefore:\n%s", after, before)
	}
	// The names of links are inside, and what is done with them is done there.
	for _, link := range []string{"/abs", "/absdir", "/rel", "/reldir", "/dangling"} {
		for _, v := range naming {
			if err := v.call(t.Context(), c, []byte(link)); err != nil && !(v.name == "lchown" && os.Geteuid() != 0) {
				t.Errorf("%s %s: %v", v.name, link, err)
			}
			os.Remove(root + "/hard")
		}
		if _, err := os.Lstat(root + link); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", link, err)
		}
	}
	if after := snapshot(t, outside); after != before {
		t.Errorf("outside:\n%s\nbefore:\n%s", after, before)
	}
	// Nobody removes the directory itself, however it is called.
	for _, path := range []string{"/", "//", "/.", "/..", "/sub/..", "/sub/../", "/sub/.", "/sub/deep/../..", "."} {
		_, err := c.RemoveFile(t.Context(), &guestv1.RemoveFileRequest{Path: []byte(path), Recursive: true})
		if err == nil {
			t.Errorf("rm -r %s went well", path)
		}
	}
	if data, err := os.ReadFile(root + "/sub/inner"); err != nil || string(data) != "inner" {
		t.Errorf("afterwards: %q, %v", data, err)
	}
}

// TestConfinedInside has every call work with what is inside, by links and ".."
// that stay there too.
func TestConfinedInside(t *testing.T) {
	for _, path := range []string{"/file", "file", "/link", "/sub/../file", "/dirlink/back", "/dirlink/../file", "/./sub/deep/../../link", "//file"} {
		root, _ := confined(t)
		_, c := serve(t, root)
		for _, v := range following {
			err := v.call(t.Context(), c, []byte(path))
			switch want := map[string]string{"mkdir -p": "not-a-directory", "mktemp": "not-a-directory"}[v.name]; {
			case v.name == "chown" && os.Geteuid() != 0:
			case strings.HasSuffix(v.name, "xattr") && reasonOf(err) == "unsupported":
			case reasonOf(err) != want:
				t.Errorf("%s %s: %v (%s), want %q", v.name, path, err, reasonOf(err), want)
			}
		}
		info, err := os.Stat(root + "/file")
		if err != nil || info.Size() != 0 || info.Mode().Perm() != 0o777 || info.ModTime() != time.Unix(1, 0) {
			t.Errorf("%s: after all calls the file is %v, %v", path, info, err)
		}
	}
	root, _ := confined(t)
	_, c := serve(t, root)
	for _, v := range making {
		for _, path := range []string{"/sub/new", "new", "/dirlink/new2", "/sub/deep/../new3"} {
			write(t, root+"/file", "inside")
			if err := v.call(t.Context(), c, []byte(path)); err != nil {
				t.Errorf("%s %s: %v", v.name, path, err)
			}
			os.Remove(filepath.Join(root, path))
		}
	}
	m, err := c.MakeTemporary(t.Context(), &guestv1.MakeTemporaryRequest{Pattern: []byte("a*b")})
	if err != nil || !strings.HasPrefix(string(m.Path), "/tmp/a") {
		t.Errorf("mktemp: %s, %v", m.GetPath(), err)
	}
	if _, err := os.Stat(root + string(m.GetPath())); err != nil {
		t.Error(err)
	}
}

// TestConfinedTransfers copies to and from a confined service.
func TestConfinedTransfers(t *testing.T) {
	root, outside := confined(t)
	files, _ := serve(t, root)
	src := filepath.Join(t.TempDir(), "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, src+"/a", "a")
	write(t, src+"/secret", "evil")
	before := snapshot(t, outside)
	reason := func(err error) string {
		if e, ok := errors.AsType[*guest.Error](err); ok {
			return e.Reason
		}
		return fmt.Sprint(err)
	}
	for _, to := range []string{"/absdir", "/reldir", "/chain", "/../outside", "/up/outside", "/absdir/secret", "/reldir/new", "/abs", "/rel", "/dangling", "/absroot/tmp"} {
		for _, from := range []string{src, src + "/.", src + "/secret"} {
			_, err := files.CopyTo(t.Context(), []string{from}, to, &guest.CopyOptions{Archive: true})
			if got := reason(err); got != "link-outside" {
				t.Errorf("copy of %s to %s: %v", from, to, err)
			}
		}
		into := filepath.Join(t.TempDir(), "into")
		_, err := files.CopyFrom(t.Context(), []string{to + "/"}, into, &guest.CopyOptions{Follow: true})
		if got := reason(err); got != "link-outside" && got != "not-found" {
			t.Errorf("copy from %s: %v", to, err)
		}
		if _, err := os.Lstat(into); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("copy from %s made something: %v", to, err)
		}
	}
	// A tree that has a directory where there is a link that leads out.
	if err := os.Rename(src, filepath.Join(filepath.Dir(src), "absdir")); err != nil {
		t.Fatal(err)
	}
	src = filepath.Join(filepath.Dir(src), "absdir")
	if _, err := files.CopyTo(t.Context(), []string{src}, "/", nil); reason(err) != "not-a-directory" {
		t.Errorf("copy over a link: %v", err)
	}
	if after := snapshot(t, outside); after != before {
		t.Errorf("outside:\n%s\nbefore:\n%s", after, before)
	}
	// With all links followed, what leads out is reported, and the rest copied.
	into := filepath.Join(t.TempDir(), "into")
	result, err := files.CopyFrom(t.Context(), []string{"/."}, into, &guest.CopyOptions{Follow: true})
	if err == nil || result.Failed == 0 {
		t.Errorf("copy of all: %+v, %v", result, err)
	}
	for name, want := range map[string]string{"file": "inside", "link": "inside", "dirlink/inner": "inner", "sub/back": "inside"} {
		if data, err := os.ReadFile(filepath.Join(into, name)); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if text := snapshot(t, into); strings.Contains(text, "secret") {
		t.Errorf("it has what is outside:\n%s", text)
	}
	// And in, by a link that stays inside: the file it leads to is the one written.
	if _, err := files.CopyTo(t.Context(), []string{src + "/a"}, "/dirlink/back", nil); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(root + "/file"); err != nil || string(data) != "a" {
		t.Errorf("what the link leads to is %q, %v", data, err)
	}
	if target, err := os.Readlink(root + "/sub/back"); err != nil || target != "../file" {
		t.Errorf("the link is %q, %v", target, err)
	}
}

// TestUnconfinedDots has a path with ".." after a link mean what it means to the
// kernel.
func TestUnconfinedDots(t *testing.T) {
	dir := t.TempDir()
	files, c := serve(t, "")
	if err := errors.Join(os.MkdirAll(dir+"/a/b", 0o755), os.Mkdir(dir+"/c", 0o755), os.Symlink("../a/b", dir+"/c/l")); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/src", "x")
	if _, err := files.CopyTo(t.Context(), []string{dir + "/src"}, dir+"/c/l/../new", nil); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(dir + "/a/new"); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	for _, path := range []string{dir + "/a/b/..", dir + "/a/.", dir + "/c/l/../"} {
		_, err := c.RemoveFile(t.Context(), &guestv1.RemoveFileRequest{Path: []byte(path), Recursive: true})
		if err == nil {
			t.Errorf("rm -r %s went well", path)
		}
	}
	if _, err := os.Stat(dir + "/a/b"); err != nil {
		t.Error(err)
	}
}
